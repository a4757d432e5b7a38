// @ts-check

/** A line of a report is not longer, where it can be broken. */
const WIDTH = 120

/**
 * Reports whose changes are easy to see: one member of a long union a line; what an entry only comes to, and the first one's report
 * has, is said there alone.
 * @param {Map<string, string>} reports by the entries' names
 * @returns {Map<string, string>}
 */
export function brief(reports) {
  const split = new Map([...reports].map(([name, text]) => [name, broken(undecorated(text)).split('\n\n')]))
  const [[first, known = []] = ['']] = split
  const said = new Set(known.map(plain))
  return new Map(
    [...split].map(([name, blocks]) => {
      const kept =
        name === first ? blocks : blocks.filter(block => isExported(block) || !said.has(plain(block)))
      return [name, kept.join('\n\n')]
    }),
  )
}

/** @param {string} block */
const isExported = block =>
  !/^(?:declare |abstract )*(?:class|const|function|interface|namespace|type) /m.test(block)

/** @param {string} block */
const plain = block => block.replace(/^export /gm, '')

/** What is documented is told by the documentation. @param {string} text */
const undecorated = text =>
  text.replace(/^ *\/\/ \(undocumented\)\n/gm, '').replace(/^\/\/ @public.*\n/gm, '')

/** @param {string} text */
function broken(text) {
  return text.replace(/^.*(?: \| ).*$/gm, line =>
    line.length <= WIDTH ? line : line.replaceAll(' | ', '\n    | '),
  )
}
