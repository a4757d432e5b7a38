/** What a datagram says, as sd_notify(3): a line is an assignment, and the last one of a name counts. */
export function notifyWords(text: string): Map<string, string> {
  return new Map(
    text.split('\n').map(line => {
      const at = line.indexOf('=')
      return [line.slice(0, at), line.slice(at + 1)] as const
    }),
  )
}
