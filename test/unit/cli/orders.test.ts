import type { Command } from 'commander'
import { expect, it } from 'vitest'
import { ORDERS, wholeProgram, wordsOf } from '../../../src/cli/program.js'

/** Commands that end with their output: questions, and servers and programs that have one of their own. */
const OTHERS = [
  'certificates list',
  'completion',
  'convert',
  'doctor',
  'events',
  'exec',
  'fd get',
  'fd list',
  'fd watch',
  'history',
  'keep',
  'logs',
  'proxy',
  'routes diff',
  'routes list',
  'run',
  'serve',
  'servers list',
  'state diff',
  'state export',
  'state get',
  'state show',
  'state stats',
  'state verify',
  'state watch',
  'status',
  'top',
  'workers start',
  'write-log',
]

it('each command is an order, which goes on without its output, or named here', async () => {
  const leaves = ({ commands }: Pick<Command, 'commands'>): Command[] =>
    commands.flatMap(command => (command.commands.length > 0 ? leaves(command) : [command]))
  const names = leaves(await wholeProgram()).map(wordsOf)
  expect(names.toSorted()).toEqual([...ORDERS, ...OTHERS].toSorted())
})
