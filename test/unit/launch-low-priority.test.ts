import { execFile } from 'node:child_process'
import { constants, getPriority } from 'node:os'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { describe, expect, it } from 'vitest'

const MODULE = fileURLToPath(new URL('../../build/modules/launch/low-priority.js', import.meta.url))

/** The priority that a process has afterwards which began with that of this one, and did this. */
async function priorityAfter(first = ''): Promise<number> {
  const program = `
    const { getPriority, setPriority } = await import('node:os')
    const { lowerPriority } = await import(${JSON.stringify(MODULE)})
    ${first}
    lowerPriority()
    process.stdout.write(String(getPriority()))`
  const { stdout } = await promisify(execFile)(process.execPath, ['--input-type=module', '-e', program])
  return Number(stdout)
}

describe('a process that leaves', () => {
  it('has a low priority', async () => {
    const low = Math.max(getPriority(), constants.priority.PRIORITY_BELOW_NORMAL)
    expect(await priorityAfter()).toBe(low)
  })

  it('keeps the one that it was given where that is lower still', async () => {
    const lowest = constants.priority.PRIORITY_LOW
    expect(await priorityAfter(`setPriority(${lowest})`)).toBe(lowest)
  })
})
