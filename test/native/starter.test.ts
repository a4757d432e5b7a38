import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { native } from '../../src/kernel/native.js'
import { descriptors, thrown } from './support.js'

const keep = descriptors()
let folder = ''

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'fdb-starter-'))
  expect([native.openStarter(), native.openStarter()]).toEqual([true, true])
})

afterAll(() => {
  rmSync(folder, { recursive: true, force: true })
})

function bytes(...texts: string[]): Buffer {
  return Buffer.from(texts.map(text => `${text}\0`).join(''))
}

function inSession(line: string, standard = [0, 1, 2], cwd = folder): number {
  const words = bytes('/bin/sh', cwd, 'sh', '-c', line)
  return native.spawn(words, bytes('PATH=/bin:/usr/bin'), -1, standard, 0, true)
}

async function statusOf(pid: number): Promise<number> {
  let status: number | null = null
  await expect.poll(() => (status = native.reapChild(pid)), { timeout: 20_000 }).not.toBe(null)
  return status!
}

/** Folders of the threads that start processes. */
function threads(): string[] {
  return readdirSync('/proc/self/task')
    .map(task => `/proc/self/task/${task}`)
    .filter(task => existsSync(task) && readFileSync(`${task}/comm`, 'utf8') === 'fdb-start\n')
}

/** The descriptors of the thread that starts processes. */
function ownOfThread(): string[] {
  return readdirSync(`${threads()[0]}/fd`)
}

describe('the thread that starts processes', () => {
  it('has no descriptor but that of its orders, whatever the process has and passes to others', async () => {
    keep(native.socketPair())
    expect(await statusOf(inSession('true'))).toBe(0)
    expect(ownOfThread()).toEqual(['0'])
    expect(thrown(() => inSession('true', [0, 1, 99_999]))).toMatchObject({ code: 'EBADF' })
    expect(ownOfThread()).toEqual(['0'])
  })

  it('starts the leader of a session, which is a child of the process and has only the given descriptors', async () => {
    const [a, b] = keep(native.socketPair())
    native.setBlocking(b!, true)
    // The shell itself becomes grep: while a shell forks, it blocks all signals for a moment.
    const pid = inSession(
      `set -- $(cat /proc/$$/stat); echo $$ $4 $6; pwd; ls /proc/$$/fd; exec grep SigBlk /proc/self/status`,
      [0, b!, b!],
    )
    expect(await statusOf(pid)).toBe(0)
    const into = Buffer.alloc(4_096)
    let said = ''
    for (let size = 1; size > 0; said += into.toString('utf8', 0, Math.max(0, size)))
      size = native.receiveMessage(a!, into, 0, into.length).bytes
    const [who, where, ...numbers] = said.split('\n')
    expect([who, where, numbers.slice(0, -2)]).toEqual([
      `${pid} ${process.pid} ${pid}`,
      folder,
      ['0', '1', '2'],
    ])
    expect(said).toMatch(/SigBlk:\s+0+\n/)
  })

  it('starts programs of every kind: in a group, under a guardian', async () => {
    const [, b] = keep(native.socketPair())
    const words = bytes('/bin/sh', folder, 'sh', '-c', 'test -S /dev/fd/3')
    expect(await statusOf(native.spawn(words, bytes('A=b'), -1, [b!], 9))).toBe(0)
    const [, guardian, leash] = native.spawnGuarded(bytes('/bin/true', '', 'true'), bytes('A=b'), [0, 1, 2])
    native.close(leash)
    expect(await statusOf(guardian)).toBe(0)
  })

  it('reports the call that failed, and leaves no process behind', async () => {
    expect(thrown(() => inSession('true', [0, 1, 2], join(folder, 'none')))).toMatchObject({
      code: 'ENOENT',
      syscall: 'chdir',
    })
    expect(native.endedChild()).toBe(-1)
    expect(ownOfThread()).toEqual(['0'])
  })

  it('ends when as many users of it have gone as there were', async () => {
    native.closeStarter()
    expect(threads()).toHaveLength(1)
    native.closeStarter()
    await expect.poll(threads, { timeout: 20_000 }).toEqual([])
    expect(await statusOf(inSession('exit 3'))).toBe(3)
  })
})
