import { execFile } from 'node:child_process'
import { constants, getPriority } from 'node:os'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { describe, expect, it } from 'vitest'

const MODULE = fileURLToPath(new URL('../../../build/modules/code-cache/low-priority.js', import.meta.url))

/** The output, as JSON, of a process that began with the priority of this one, and does this. */
async function printed(program: string): Promise<unknown> {
  const whole = `
    const { getPriority, setPriority } = await import('node:os')
    const { lowerPriority, lowerThreads, threadsOfV8 } = await import(${JSON.stringify(MODULE)})
    const print = value => process.stdout.write(JSON.stringify(value))
    ${program}`
  const { stdout } = await promisify(execFile)(process.execPath, ['--input-type=module', '-e', whole])
  return JSON.parse(stdout)
}

const priorityAfter = (first = '') => printed(`${first}; lowerPriority(); print(getPriority())`)

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

describe.runIf(process.platform === 'linux')('the threads of V8', () => {
  const all = `threads.map(id => getPriority(id))`

  it('have a lower priority than the main one, which keeps its own', async () => {
    const own = getPriority()
    const [main, others] = (await printed(
      `const threads = threadsOfV8(); lowerThreads(threads); print([getPriority(), ${all}])`,
    )) as [number, number[]]
    expect(main).toBe(own)
    expect(others.length).toBeGreaterThan(0)
    expect(new Set(others)).toEqual(new Set([Math.min(own + 5, constants.priority.PRIORITY_LOW)]))
  })

  it('have no lower one than there is', async () => {
    const { PRIORITY_LOW } = constants.priority
    const others = await printed(
      `const threads = threadsOfV8(); setPriority(${PRIORITY_LOW}); lowerThreads(threads); print(${all})`,
    )
    expect(new Set(others as number[])).toEqual(new Set([PRIORITY_LOW]))
  })

  it('keep their priority where one of them has gone', async () => {
    const others = await printed(`lowerThreads([2 ** 30]); const threads = threadsOfV8(); print(${all})`)
    expect(new Set(others as number[])).toEqual(new Set([getPriority()]))
  })
})
