import { writeFileSync } from 'node:fs'
import { resolve } from 'node:path'
import type { Command } from 'commander'
import type { InitPlan } from './init-plan.js'
import { plain, style } from './output.js'

interface InitFlags {
  entry?: string
  yes?: true
}

export function addInit(program: Command): void {
  program
    .command('init')
    .description(
      'show what fd-broker would add to an application’s package.json, and write it after confirmation',
    )
    .argument('[folder]', 'folder of the application', '.')
    .option('--entry <file>', 'script that starts the application; default: from package.json')
    .option('--yes', 'write without asking')
    .addHelpText(
      'after',
      `
init never changes your sources. It names lines that could cause surprises in an upgrade.

Examples:
  $ fd-broker init
  $ fd-broker init --entry src/server.js --yes`,
    )
    .action(init)
}

async function init(folder: string, { entry, yes }: InitFlags): Promise<void> {
  const { planOf } = await import('./init-plan.js')
  const plan = planOf(resolve(folder), entry)
  process.stdout.write(textOf(plan))
  if (plan.isEmpty) process.exitCode = 1
  if (plan.change === null) return
  const { file, text } = plan.change
  if (!yes && !(await confirm())) {
    process.stdout.write('nothing was written\n')
    return
  }
  writeFileSync(file, text)
  process.stdout.write(`${file} was written. Next:\n${plan.next.map(line => `  $ ${line}\n`).join('')}`)
}

function textOf({ found, notes, change, reason }: InitPlan): string {
  const lines = found.map(([name, value]) => `${style('bold', name)}: ${plain(value)}`)
  const surprises = notes.map(
    ({ location: place, note }) => `${style('yellow', 'note')}  ${plain(place)}: ${note}`,
  )
  const coloured = (line: string) =>
    line.startsWith('+') ? style('green', line) : line.startsWith('-') ? style('red', line) : line
  const rest = change === null ? [reason] : change.difference.map(coloured)
  return `${[...lines, ...surprises, '', ...rest].join('\n')}\n`
}

/** Asks whether to write. Without a terminal the answer is no. */
async function confirm(): Promise<boolean> {
  if (!process.stdin.isTTY || !process.stdout.isTTY) {
    process.stdout.write('give --yes to write this; ')
    return false
  }
  const { createInterface } = await import('node:readline')
  const lines = createInterface({ input: process.stdin, output: process.stdout })
  return await new Promise(resolve => {
    // Ctrl-C and Ctrl-D close the input without an answer.
    lines.once('close', () => {
      process.stdout.write('\n')
      resolve(false)
    })
    lines.question('Write this? [y/N] ', answer => {
      lines.removeAllListeners('close')
      lines.close()
      resolve(/^y(?:es)?$/i.test(answer.trim()))
    })
  })
}
