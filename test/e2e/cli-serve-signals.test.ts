import { existsSync, mkdirSync, readFileSync, rmSync, utimesSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import type { DaemonStatus } from '../../src/operator/status-report.js'
import { NIGHTLY, perLane } from '../lanes/lane.js'
import { hasEnded, signalPid } from '../processes/launch.js'
import { until } from '../processes/until.js'
import { Sandbox } from './cli-processes.js'

const MEMBER = fileURLToPath(new URL('cli-member.mjs', import.meta.url))

/** Listens, and can be told. */
async function serve(sandbox: Sandbox, ...flags: string[]): Promise<number> {
  const pid = await sandbox.serve('--control', sandbox.control, ...flags)
  await said(sandbox, `(pid ${pid}) listens`)
  return pid
}

function said(sandbox: Sandbox, text: string): Promise<boolean> {
  return until(
    `the output has "${text}"`,
    () => sandbox.output.includes(text),
    10_000,
    () => sandbox.output,
  )
}

/** A member of the daemon; resolves when it serves. */
async function member(sandbox: Sandbox, service: string, ...stateFile: string[]): Promise<number> {
  const pid = await sandbox.launch([process.execPath, MEMBER, sandbox.control, service, ...stateFile])
  await sandbox.statusWhere(`${service} serves`, status =>
    (status as unknown as DaemonStatus).services.some(one => one.service === service && one.pid === pid),
  )
  return pid
}

/** Ends it, and waits until the daemon knows. */
async function kill(sandbox: Sandbox, pid: number, service: string): Promise<void> {
  signalPid(pid, 'SIGKILL')
  await sandbox.statusWhere(`nobody serves ${service}`, status =>
    (status as unknown as DaemonStatus).services.some(
      one => one.service === service && (one.pid as unknown) === null,
    ),
  )
}

async function ends(sandbox: Sandbox, pid: number): Promise<void> {
  await until(
    `process ${pid} ends`,
    () => hasEnded(pid),
    10_000,
    () => sandbox.output,
  )
}

describe('signals to fd-broker serve', () => {
  it('HUP, USR1 and WINCH are noted, and end nothing: no end, no inspector', async () => {
    const sandbox = Sandbox.open()
    const pid = await serve(sandbox)
    for (const signal of ['SIGWINCH', 'SIGHUP', 'SIGUSR1'] as const) {
      signalPid(pid, signal)
      await said(sandbox, `"signal":"${signal}"`)
    }
    expect(sandbox.output).not.toMatch(/debugger/i)
    expect((await sandbox.status()).pid).toBe(pid)
  })

  it.runIf(NIGHTLY)('PIPE, and a reader of its output that has gone, do nothing', async () => {
    const sandbox = Sandbox.open()
    // The shell's `read` takes the one line and ends: whatever is written later finds no reader.
    const piped = '"$@" 2>&1 | read line'
    await sandbox.launch([
      'sh',
      '-c',
      piped,
      'sh',
      process.execPath,
      CLI,
      'serve',
      '--control',
      sandbox.control,
    ])
    const { pid } = await sandbox.statusWhere('the daemon listens', ({ hosting }) => hosting === 'daemon')
    signalPid(pid, 'SIGPIPE')
    signalPid(pid, 'SIGHUP')
    await member(sandbox, 'shop')
    expect((await sandbox.status()).pid).toBe(pid)
    expect(hasEnded(pid)).toBe(false)
    // The successor writes to a pipe without a reader, too.
    signalPid(pid, 'SIGUSR2')
    await ends(sandbox, pid)
    await sandbox.statusWhere('the next one answers', status => status.generation === 2)
  })

  it('WINCH has those wait that come to join, until HUP', async () => {
    const sandbox = Sandbox.open()
    const pid = await serve(sandbox)
    signalPid(pid, 'SIGWINCH')
    await said(sandbox, 'wait until HUP')
    const joining = member(sandbox, 'shop')
    expect((await sandbox.status()).pid).toBe(pid)
    signalPid(pid, 'SIGHUP')
    await joining
  })

  it('TERM while members hold everything too: it ends at once, and they serve on', async () => {
    const sandbox = Sandbox.open()
    const pid = await serve(sandbox)
    const shop = await member(sandbox, 'shop')
    signalPid(pid, 'SIGTERM')
    await ends(sandbox, pid)
    expect(hasEnded(shop)).toBe(false)
    // The next daemon gets it all back.
    const next = await serve(sandbox)
    await sandbox.statusWhere('the member is back', status =>
      (status as unknown as DaemonStatus).services.some(one => one.pid === shop),
    )
    expect(next).not.toBe(pid)
  })

  it.each(perLane(['SIGTERM'] as const, ['SIGTERM', 'SIGINT'] as const))(
    '%s when it alone holds a service: says which and what, needs a second one',
    async signal => {
      const sandbox = Sandbox.open()
      const pid = await serve(sandbox)
      const shop = await member(sandbox, 'shop')
      const mail = await member(sandbox, 'mail')
      signalPid(shop, 'SIGKILL')
      await sandbox.statusWhere('nobody serves shop', status =>
        (status as unknown as DaemonStatus).services.some(
          one => one.service === 'shop' && (one.pid as unknown) === null,
        ),
      )
      signalPid(pid, signal)
      await said(sandbox, 'no other process holds')
      expect(sandbox.output).toMatch(/"service":"shop","listeners":\["web tcp:\/\/127\.0\.0\.1:\d+"\]/)
      expect(sandbox.output).toMatch(/"stateBytes":[1-9]/)
      expect(sandbox.output).not.toContain('"service":"mail"')
      expect((await sandbox.status()).pid).toBe(pid)
      // The next one gets it still.
      const again = await member(sandbox, 'shop')
      signalPid(again, 'SIGKILL')
      await sandbox.statusWhere('nobody serves shop', status =>
        (status as unknown as DaemonStatus).services.some(
          one => one.service === 'shop' && (one.pid as unknown) === null,
        ),
      )
      signalPid(pid, signal)
      await ends(sandbox, pid)
      expect(hasEnded(mail)).toBe(false)
    },
  )

  it('TERM when it alone holds a service, with --drop: it ends at once', async () => {
    const sandbox = Sandbox.open()
    const pid = await serve(sandbox, '--drop')
    signalPid(await member(sandbox, 'shop'), 'SIGKILL')
    await sandbox.statusWhere('nobody serves shop', status =>
      (status as unknown as DaemonStatus).services.some(one => (one.pid as unknown) === null),
    )
    signalPid(pid, 'SIGTERM')
    await ends(sandbox, pid)
    expect(sandbox.output).toContain('"service":"shop"')
  })

  it.runIf(NIGHTLY)(
    'with --drop, it writes the state that it alone holds to the state file of the members, which lacked it',
    async () => {
      const sandbox = Sandbox.open()
      const file = join(sandbox.folder, 'shop.state')
      const pid = await serve(sandbox, '--drop')
      const first = await member(sandbox, 'shop', file)
      const visits = async () =>
        (await sandbox.run('state', 'get', 'visits', 'first', '--control', sandbox.control)).stdout
      await until('the first visit is there', async () => (await visits()).includes(`${first}`), 10_000)
      await kill(sandbox, first, 'shop')
      // As if the disk had been full.
      rmSync(file)
      signalPid(pid, 'SIGTERM')
      await ends(sandbox, pid)
      expect(sandbox.output).toContain(`"stateFile":"${file}"`)
      expect(sandbox.output).toMatch(/"sequence":[1-9]\d*,"msg":"the daemon wrote the state file"/)
      await serve(sandbox)
      await member(sandbox, 'shop', file)
      expect(await visits()).toContain(`${first}`)
    },
  )

  it.runIf(NIGHTLY)('with --drop, it says so when that cannot be written, and ends', async () => {
    const sandbox = Sandbox.open()
    const folder = join(sandbox.folder, 'files')
    mkdirSync(folder)
    const pid = await serve(sandbox, '--drop')
    await kill(sandbox, await member(sandbox, 'shop', join(folder, 'shop.state')), 'shop')
    rmSync(folder, { recursive: true })
    signalPid(pid, 'SIGTERM')
    await ends(sandbox, pid)
    expect(sandbox.output).toContain('could not write the state that it alone holds to the state file')
    expect(sandbox.output).not.toContain('the daemon wrote the state file')
  })

  it('with --drop, it leaves a state file alone that somebody has written since', async () => {
    const sandbox = Sandbox.open()
    const file = join(sandbox.folder, 'shop.state')
    const pid = await serve(sandbox, '--drop')
    const first = await member(sandbox, 'shop', file)
    await until('the file is there', () => existsSync(file), 10_000)
    await kill(sandbox, first, 'shop')
    const later = Date.now() / 1000 + 60
    utimesSync(file, later, later)
    const before = readFileSync(file)
    signalPid(pid, 'SIGTERM')
    await ends(sandbox, pid)
    expect(sandbox.output).toMatch(/was written at .*after the last member at this daemon ended/)
    expect(readFileSync(file)).toEqual(before)
  })
})

const CLI = fileURLToPath(new URL('../../dist/cli.cjs', import.meta.url))
