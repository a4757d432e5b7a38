import { KINDS, SITUATIONS } from './list.js'

const HEAD = `<!-- Made by test/situations/main.ts from test/situations/list.ts. -->
# Situations from public reports

Users of servers, process managers and proxies have reported what goes wrong when a server is replaced, or is started by another tool. Each line is such a complaint, in our words, with its report and with the test that plays it: the test fails if the complaint occurs with fd-broker. Tests that are marked _nightly_ run in \`npm run nightly\`, the others in \`npm test\`.
`

/** The text of docs/situations.md. */
export function situationsPage(): string {
  const groups = Object.entries(KINDS).map(([kind, heading]) => {
    const lines = SITUATIONS.filter(situation => situation.kind === kind).map(
      ({ report, complaint, test: { file, nightly } }) => {
        const [, name, number] = /^(.+?)\/(?:issues|pull)\/(\d+)$/.exec(report) ?? []
        const source = `[${file.replace(/^test\/|\.test\.ts$/g, '')}](../${file})`
        return `- ${complaint} [${name}#${number}](https://github.com/${report}) · ${source}${nightly ? ', _nightly_' : ''}`
      },
    )
    return `\n## ${heading}\n\n${lines.join('\n')}\n`
  })
  return `${HEAD}${groups.join('')}`
}
