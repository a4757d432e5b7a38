import { existsSync, mkdirSync, readFileSync, rmSync, utimesSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import type { DaemonStatus } from '../../src/operator/status-report.js'
import { NIGHTLY, perLane } from '../lanes/lane.js'
import { hasEnded, signalPid } from '../processes/launch.js'
import { until } from '../processes/until.js'
import { Desk } from './cli-processes.js'

const MEMBER = fileURLToPath(new URL('cli-member.mjs', import.meta.url))

/** Listens, and can be told. */
async function serve(desk: Desk, ...flags: string[]): Promise<number> {
  const pid = await desk.serve('--control', desk.control, ...flags)
  await said(desk, `(pid ${pid}) listens`)
  return pid
}

function said(desk: Desk, text: string): Promise<boolean> {
  return until(
    `the output has "${text}"`,
    () => desk.output.includes(text),
    10_000,
    () => desk.output,
  )
}

/** A member of the daemon; resolves when it serves. */
async function member(desk: Desk, service: string, ...stateFile: string[]): Promise<number> {
  const pid = await desk.launch([process.execPath, MEMBER, desk.control, service, ...stateFile])
  await desk.statusWhere(`${service} serves`, status =>
    (status as unknown as DaemonStatus).services.some(one => one.service === service && one.pid === pid),
  )
  return pid
}

/** Ends it, and waits until the daemon knows. */
async function kill(desk: Desk, pid: number, service: string): Promise<void> {
  signalPid(pid, 'SIGKILL')
  await desk.statusWhere(`nobody serves ${service}`, status =>
    (status as unknown as DaemonStatus).services.some(
      one => one.service === service && (one.pid as unknown) === null,
    ),
  )
}

async function ends(desk: Desk, pid: number): Promise<void> {
  await until(
    `process ${pid} ends`,
    () => hasEnded(pid),
    10_000,
    () => desk.output,
  )
}

describe('signals to fd-broker serve', () => {
  it('HUP, USR1 and WINCH are noted, and end nothing: no end, no inspector', async () => {
    const desk = Desk.open()
    const pid = await serve(desk)
    for (const signal of ['SIGWINCH', 'SIGHUP', 'SIGUSR1'] as const) {
      signalPid(pid, signal)
      await said(desk, `"signal":"${signal}"`)
    }
    expect(desk.output).not.toMatch(/debugger/i)
    expect((await desk.status()).pid).toBe(pid)
  })

  it.runIf(NIGHTLY)('PIPE, and a reader of its output that has gone, do nothing', async () => {
    const desk = Desk.open()
    // The shell's `read` takes the one line and ends: whatever is written later finds no reader.
    const piped = '"$@" 2>&1 | read line'
    await desk.launch(['sh', '-c', piped, 'sh', process.execPath, CLI, 'serve', '--control', desk.control])
    const { pid } = await desk.statusWhere('the daemon listens', ({ hosting }) => hosting === 'daemon')
    signalPid(pid, 'SIGPIPE')
    signalPid(pid, 'SIGHUP')
    await member(desk, 'shop')
    expect((await desk.status()).pid).toBe(pid)
    expect(hasEnded(pid)).toBe(false)
    // The successor writes to a pipe without a reader, too.
    signalPid(pid, 'SIGUSR2')
    await ends(desk, pid)
    await desk.statusWhere('the next one answers', status => status.generation === 2)
  })

  it('WINCH has those wait that come to join, until HUP', async () => {
    const desk = Desk.open()
    const pid = await serve(desk)
    signalPid(pid, 'SIGWINCH')
    await said(desk, 'wait until HUP')
    const joining = member(desk, 'shop')
    expect((await desk.status()).pid).toBe(pid)
    signalPid(pid, 'SIGHUP')
    await joining
  })

  it('TERM while members hold everything too: it ends at once, and they serve on', async () => {
    const desk = Desk.open()
    const pid = await serve(desk)
    const shop = await member(desk, 'shop')
    signalPid(pid, 'SIGTERM')
    await ends(desk, pid)
    expect(hasEnded(shop)).toBe(false)
    // The next daemon gets it all back.
    const next = await serve(desk)
    await desk.statusWhere('the member is back', status =>
      (status as unknown as DaemonStatus).services.some(one => one.pid === shop),
    )
    expect(next).not.toBe(pid)
  })

  it.each(perLane(['SIGTERM'] as const, ['SIGTERM', 'SIGINT'] as const))(
    '%s when it alone holds a service: says which and what, needs a second one',
    async signal => {
      const desk = Desk.open()
      const pid = await serve(desk)
      const shop = await member(desk, 'shop')
      const mail = await member(desk, 'mail')
      signalPid(shop, 'SIGKILL')
      await desk.statusWhere('nobody serves shop', status =>
        (status as unknown as DaemonStatus).services.some(
          one => one.service === 'shop' && (one.pid as unknown) === null,
        ),
      )
      signalPid(pid, signal)
      await said(desk, 'no other process holds')
      expect(desk.output).toMatch(/"service":"shop","listeners":\["web tcp:\/\/127\.0\.0\.1:\d+"\]/)
      expect(desk.output).toMatch(/"stateBytes":[1-9]/)
      expect(desk.output).not.toContain('"service":"mail"')
      expect((await desk.status()).pid).toBe(pid)
      // The next one gets it still.
      const again = await member(desk, 'shop')
      signalPid(again, 'SIGKILL')
      await desk.statusWhere('nobody serves shop', status =>
        (status as unknown as DaemonStatus).services.some(
          one => one.service === 'shop' && (one.pid as unknown) === null,
        ),
      )
      signalPid(pid, signal)
      await ends(desk, pid)
      expect(hasEnded(mail)).toBe(false)
    },
  )

  it('TERM when it alone holds a service, with --drop: it ends at once', async () => {
    const desk = Desk.open()
    const pid = await serve(desk, '--drop')
    signalPid(await member(desk, 'shop'), 'SIGKILL')
    await desk.statusWhere('nobody serves shop', status =>
      (status as unknown as DaemonStatus).services.some(one => (one.pid as unknown) === null),
    )
    signalPid(pid, 'SIGTERM')
    await ends(desk, pid)
    expect(desk.output).toContain('"service":"shop"')
  })

  it('with --drop, it writes the state that it alone holds to the state file of the members, which lacked it', async () => {
    const desk = Desk.open()
    const file = join(desk.folder, 'shop.state')
    const pid = await serve(desk, '--drop')
    const first = await member(desk, 'shop', file)
    const visits = async () =>
      (await desk.run('state', 'get', 'visits', 'first', '--control', desk.control)).stdout
    await until('the first visit is there', async () => (await visits()).includes(`${first}`), 10_000)
    await kill(desk, first, 'shop')
    // As if the disk had been full.
    rmSync(file)
    signalPid(pid, 'SIGTERM')
    await ends(desk, pid)
    expect(desk.output).toContain(`"stateFile":"${file}"`)
    expect(desk.output).toMatch(/"sequence":[1-9]\d*,"msg":"the daemon wrote the state file"/)
    await serve(desk)
    await member(desk, 'shop', file)
    expect(await visits()).toContain(`${first}`)
  })

  it.runIf(NIGHTLY)('with --drop, it says so when that cannot be written, and ends', async () => {
    const desk = Desk.open()
    const folder = join(desk.folder, 'files')
    mkdirSync(folder)
    const pid = await serve(desk, '--drop')
    await kill(desk, await member(desk, 'shop', join(folder, 'shop.state')), 'shop')
    rmSync(folder, { recursive: true })
    signalPid(pid, 'SIGTERM')
    await ends(desk, pid)
    expect(desk.output).toContain('could not write the state that it alone holds to the state file')
    expect(desk.output).not.toContain('the daemon wrote the state file')
  })

  it('with --drop, it leaves a state file alone that somebody has written since', async () => {
    const desk = Desk.open()
    const file = join(desk.folder, 'shop.state')
    const pid = await serve(desk, '--drop')
    const first = await member(desk, 'shop', file)
    await until('the file is there', () => existsSync(file), 10_000)
    await kill(desk, first, 'shop')
    const later = Date.now() / 1000 + 60
    utimesSync(file, later, later)
    const before = readFileSync(file)
    signalPid(pid, 'SIGTERM')
    await ends(desk, pid)
    expect(desk.output).toMatch(/was written at .*after the last member at this daemon ended/)
    expect(readFileSync(file)).toEqual(before)
  })
})

const CLI = fileURLToPath(new URL('../../dist/cli.cjs', import.meta.url))
