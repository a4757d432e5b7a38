import type { Cell, Sight } from './cell.js'
import { cellAt, HOSTINGS } from './table.js'

const HEAD = `<!-- Made by test/orders/main.ts from the tables in test/orders. -->
# Orders in each phase

A process of a service may get any order in any [phase](glossary.md) of a handoff. These tables say what then happens: the answer to the order, what becomes of the process, and which process serves new clients. "Later" is when the process has been let go on. An operator's order goes to the process that serves, whichever that is. A line without a mark is played by [e2e/orders](../test/e2e/orders.test.ts) with real processes, some in \`npm test\` and all in \`npm run nightly\`; other lines name their test, and a line marked _not played_ is only described.
`

/** The text for each phase or state of a process. */
const AFTERWARDS: Readonly<Record<string, string>> = {
  idle: 'no upgrade is under way',
  starting: 'a version is starting',
  ending: 'it waits for the end of its program',
  working: 'its workers serve',
  replacing: 'it replaces workers',
  probation: 'previous workers stand by',
  draining: 'it waits for the end of its workers',
  joining: 'it still joins',
  ready: 'it stays ready',
  serving: 'it serves',
  frozen: 'its changes wait',
  unfit: 'it serves reads',
  orphan: 'it accepts, and serves reads',
  standby: 'it stands by',
  leaving: 'it waits for its last connections',
  gone: 'it has left, and lives on',
  alive: 'it lives on',
  ended: 'it has ended',
  stopped: 'it is stopped',
}

const CLIENTS: Readonly<Record<Sight['serves'], string>> = {
  it: 'it answers',
  other: 'another process answers',
  any: 'it or another process answers',
  none: 'no process listens',
  waits: 'clients wait, and none is refused',
}

/** The text of docs/orders.md. */
export function ordersPage(): string {
  return `${HEAD}${Object.keys(HOSTINGS).map(hostingText).join('')}`
}

function hostingText(hosting: string): string {
  const { heading, phases } = HOSTINGS[hosting]!
  const texts = Object.keys(phases).map(phase => phaseText(hosting, phase))
  return `\n## ${heading}\n${texts.join('')}`
}

function phaseText(hosting: string, phase: string): string {
  const { clients, orders, phases } = HOSTINGS[hosting]!
  const { about, heldBy } = phases[phase]!
  const rows = Object.entries(orders).map(([order, { about: given }]) => {
    const cell = cellAt({ hosting, phase, order })
    return `| ${given} | ${cell === undefined ? '' : cellText(cell, heldBy, { ...CLIENTS, ...clients })} |`
  })
  return `\n### ${phase}: the process ${about}\n\n| order | what happens |\n|---|---|\n${rows.join('\n')}\n`
}

function cellText(cell: Cell, heldBy: string | undefined, clients: typeof CLIENTS): string {
  switch (cell.by) {
    case 'play': {
      const first = sightText(cell.first, clients)
      const when = heldBy === undefined ? '' : ` (${heldBy})`
      return cell.later === null ? first : `${first}. Later${when}: ${sightText(cell.later, clients)}`
    }
    case 'test':
      return `${cell.says} · [${cell.file.replace(/^test\/|\.test\.ts$/g, '')}](../${cell.file})`
    case 'other':
      return `the order goes to the process that serves: see ${cell.phase}`
    case 'claim':
      return `${cell.says}, _not played_`
    case 'none':
      return `cannot occur: ${cell.why}`
    case 'open':
      return '_open_'
  }
}

function sightText({ answer, after, serves }: Sight, clients: typeof CLIENTS): string {
  const text = answer === 'done' ? 'done' : answer === 'waits' ? 'the order waits' : `refused: \`${answer}\``
  return `${text}; ${AFTERWARDS[after] ?? after}; ${clients[serves]}`
}
