/** One stage of a Dockerfile. */
export interface Stage {
  readonly from: string
  readonly name: string | undefined
  readonly steps: readonly { readonly instruction: string; readonly args: string }[]
}

/** Parses this project's own Dockerfile: no line of a heredoc, no escapes other than at the end of a line. */
export function parseDockerfile(text: string): { args: Map<string, string>; stages: Stage[] } {
  const args = new Map<string, string>()
  const stages: { from: string; name: string | undefined; steps: { instruction: string; args: string }[] }[] =
    []
  for (const line of text.replace(/\\\n/g, ' ').split('\n')) {
    if (line.trim() === '' || line.startsWith('#')) continue
    const [, instruction = '', rest = ''] = /^([A-Z]+)\s+(.*)$/.exec(line) ?? []
    if (instruction === '') throw new Error(`no instruction: ${line}`)
    if (instruction === 'ARG') {
      const [name = '', value = ''] = rest.split('=', 2)
      args.set(name, value)
    } else if (instruction === 'FROM') {
      const [from = '', , name] = rest.split(/\s+/)
      stages.push({ from, name, steps: [] })
    } else stages.at(-1)!.steps.push({ instruction, args: rest })
  }
  return { args, stages }
}
