import { execFileSync, spawn } from 'node:child_process'
import { EventEmitter, once } from 'node:events'
import {
  chmodSync,
  chownSync,
  closeSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it, onTestFinished } from 'vitest'
import { type Logger, SILENT } from '../../../src/base/logger.js'
import { native } from '../../../src/kernel/native.js'
import { acquireControl, closeControl, type FirstControl } from '../../../src/os/control-path.js'
import { locationInFileSystem, reserve } from '../../../src/os/reservation.js'
import { ControlWatch, type RestoredControl, withRestored } from '../../../src/os/restore-control.js'
import { inotifyNumbers } from '../../fixtures/open-descriptors.js'
import { compiled } from '../../processes/compiled.js'
import { until } from '../../processes/until.js'

let folder: string
let path: string
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'fdb-restored-'))
  path = join(folder, 'run', 's')
})
afterEach(() => rmSync(folder, { recursive: true, force: true }))

async function asFirst(): Promise<FirstControl> {
  const control = await acquireControl(path)
  if (control.role !== 'first') throw new Error('expected to be first')
  return control
}

/** A holder of the path, which is looked after until the test ends. */
class Holder {
  place: FirstControl
  readonly errors: string[] = []
  accepts = 0
  /** How often the listener cannot be watched. */
  failing = 0
  readonly watch: ControlWatch
  readonly #told = new EventEmitter()

  constructor(place: FirstControl) {
    this.place = place
    const logger: Logger = {
      ...SILENT,
      error: facts => this.errors.push((facts as { err: Error }).err.message),
    }
    this.watch = new ControlWatch({
      control: () => this.place,
      restored: made => {
        this.place = withRestored(this.place, made)
        this.#told.emit('restored', made)
      },
      accept: () => {
        this.accepts++
        if (this.failing > 0) throw Object.assign(new Error(`full ${this.failing--}`), { code: 'ENOSPC' })
      },
      logger,
    })
    this.watch.start()
    this.watch.check()
    onTestFinished(() => {
      this.watch.stop()
      closeControl(this.place)
    })
  }

  /** The next time that something is put back. */
  get restored(): Promise<RestoredControl> {
    return once(this.#told, 'restored').then(([made]) => made)
  }
}

describe('the removed control path of a holder', () => {
  it.each([
    ['its lock file', () => unlinkSync(`${path}.lock`)],
    ['the path itself', () => unlinkSync(path)],
    ['the folder with both', () => rmSync(join(folder, 'run'), { recursive: true })],
    ['the folder, by another name', () => renameSync(join(folder, 'run'), join(folder, 'old'))],
  ])('%s: is put back at once, and the next process finds it', async (_what, remove) => {
    const holder = new Holder(await asFirst())
    const { restored } = holder
    const at = performance.now()
    remove()
    await restored
    expect(performance.now() - at).toBeLessThan(2_000)
    const next = await acquireControl(path)
    expect(next.role).toBe('next')
    if (next.role === 'next') next.channel.close()
    expect(holder.errors).toEqual([])
  })

  it('accepts when it can be watched, after one failure', async () => {
    const holder = new Holder(await asFirst())
    const { accepts } = holder
    holder.failing = 1
    unlinkSync(path)
    await holder.restored
    await until('it accepts', () => holder.accepts > accepts + 1, 2_000)
    expect(holder.errors).toEqual([])
  })

  it.runIf(process.getuid?.() === 0)(
    'and whose user may not enter the folder: nothing is missed',
    async () => {
      const holder = new Holder(await asFirst())
      process.seteuid!(65534)
      try {
        for (let check = 0; check < 3; check++) holder.watch.check()
      } finally {
        process.seteuid!(0)
      }
      expect(holder.errors).toEqual([])
    },
  )

  it('in a folder that other users reach: the folder has its mode again, and its group if this process may set it', async () => {
    const run = join(folder, 'run')
    const mine = process.getuid?.() === 0 ? 4_711 : process.getgid!()
    mkdirSync(run)
    chownSync(run, process.getuid!(), mine)
    chmodSync(run, 0o2751)
    const holder = new Holder(await asFirst())
    for (let round = 0; round < 2; round++) {
      const { restored } = holder
      rmSync(run, { recursive: true })
      await restored
      const { mode, gid } = statSync(run)
      expect([mode & 0o7777, gid]).toEqual([0o2751, mine])
    }
    expect(holder.errors).toEqual([])
  })

  it('has one watch for as long as nothing is missing', async () => {
    // Another thread closes the watches of the tests before.
    await until('no watch is left', () => inotifyNumbers().length === 0)
    const lower = openSync('/dev/null', 'r')
    const holder = new Holder(await asFirst())
    const watches = inotifyNumbers()
    expect(watches).toHaveLength(1)
    // A new watch would get this lower number.
    closeSync(lower)
    for (let check = 0; check < 3; check++) holder.watch.check()
    expect(inotifyNumbers()).toEqual(watches)
  })

  it('comes back again and again', async () => {
    const holder = new Holder(await asFirst())
    for (let round = 0; round < 3; round++) {
      const { restored } = holder
      rmSync(join(folder, 'run'), { recursive: true })
      await restored
    }
    expect([existsSync(path), existsSync(`${path}.lock`)]).toEqual([true, true])
  })

  it('a lock file that another process has made again is locked, unless that process holds it, which is told once', async () => {
    const holder = new Holder(await asFirst())
    const { restored } = holder
    unlinkSync(`${path}.lock`)
    writeFileSync(`${path}.lock`, '')
    expect((await restored).lock).not.toBeNull()

    unlinkSync(`${path}.lock`)
    const other = native.openLockFile(`${path}.lock`, 0o600)
    onTestFinished(() => native.close(other))
    native.tryLock(other)
    await until('it is told', () => holder.errors.length > 0)
    expect(holder.errors[0]).toContain('another process holds the new one')
    holder.watch.check()
    expect(holder.errors).toHaveLength(1)
  })

  it('a path on which another program listens by now, and a file, are left to it', async () => {
    const holder = new Holder(await asFirst())
    unlinkSync(path)
    const other = createServer()
    await once(other.listen(path), 'listening')
    await until('it is told', () => holder.errors.length > 0)
    expect(holder.errors[0]).toMatch(/listens there now/)
    const closed = once(other, 'close')
    const { restored } = holder
    other.close()
    await closed
    holder.watch.check()
    await restored

    rmSync(path)
    writeFileSync(path, 'precious')
    await until('it is told', () => holder.errors.length > 1)
    expect(holder.errors[1]).toMatch(/not a socket/)
  })
})

describe('the reservation of a control path', () => {
  it('keeps a second process from serving when lock file and folder are gone, and that process names the first', async () => {
    const control = await asFirst()
    rmSync(join(folder, 'run'), { recursive: true })
    await expect(acquireControl(path, { timeoutMs: 50 })).rejects.toMatchObject({
      code: 'ERR_FDB_DEADLINE',
      message: expect.stringContaining(`process ${process.pid} `),
      details: { state: 'lost', pid: process.pid },
    })
    closeControl(control)
    closeControl(await asFirst())
  })

  it('leads the next process to the holder where only the lock file is gone', async () => {
    const control = await asFirst()
    unlinkSync(`${path}.lock`)
    const next = await acquireControl(path)
    expect(next.role).toBe('next')
    if (next.role === 'next') next.channel.close()
    closeControl(control)
  })

  it('survives more processes that ask than its queue is long', async () => {
    const holder = new Holder(await asFirst())
    for (let asked = 0; asked < 300; asked++) {
      if (asked % 100 === 0) holder.watch.check()
      expect(reserve(path)).toBe('taken')
    }
  })

  it('succeeds where there was none', async () => {
    const control = await asFirst()
    control.reservation?.close()
    const holder = new Holder({ ...control, reservation: null })
    expect(holder.place.reservation).not.toBeNull()
    expect(reserve(path)).toBe('taken')
  })

  it.runIf(process.getuid?.() === 0)('of another user keeps no service from starting', async () => {
    mkdirSync(join(folder, 'run'), { mode: 0o700 })
    const name = `fd-broker:${locationInFileSystem(path)}`
    const addon = join(import.meta.dirname, '../../../build/Release/fd_broker.node')
    const script = `const host = ${JSON.stringify(name)}, addon = require(process.argv[1]), { setuid } = process; setuid.call(process, 65534)
        addon.bindSocket({ kind: 'unix', host, abstract: true, backlog: 5 }); console.log('bound'); setInterval(() => {}, 1e6)`
    const squatter = spawn(process.execPath, ['-e', script, addon], { stdio: ['ignore', 'pipe', 'inherit'] })
    onTestFinished(() => void squatter.kill('SIGKILL'))
    await once(squatter.stdout, 'data')
    const control = await asFirst()
    expect(control.reservation).toBeNull()
    closeControl(control)
  })
})

describe('the place of a path in its file system', () => {
  it('stays the same by another way, and differs in another folder', () => {
    mkdirSync(join(folder, 'a folder'))
    symlinkSync(join(folder, 'a folder'), join(folder, 'link'))
    const place = locationInFileSystem(join(folder, 'a folder', 's'))
    expect(place).toMatch(/^\d+:\d+:\/.*a folder\/s$/)
    expect(locationInFileSystem(join(folder, 'link', 's'))).toBe(place)
    expect(locationInFileSystem(join(folder, 's'))).not.toBe(place)
    expect(locationInFileSystem(join(folder, 'none', 's'))).toBeNull()
  })

  it.runIf(process.getuid?.() === 0)(
    'stays the same in another mount namespace, unless another file system lies there',
    () => {
      const real = realpathSync(folder)
      mkdirSync(join(real, 'mine'))
      mkdirSync(join(real, 'bound'))
      mkdirSync(join(real, 'private'))
      const module = compiled('os/reservation')
      const print = `import(process.argv[1]).then(m => console.log(JSON.stringify(process.argv.slice(2).map(m.locationInFileSystem))))`
      const mounts = `mount --bind "$1/mine" "$1/bound" && mount -t tmpfs none "$1/private" && shift && exec "$@"`
      const paths = ['mine', 'bound', 'private'].map(name => join(real, name, 's'))
      const command = [process.execPath, '-e', print, module, ...paths]
      const said = execFileSync('unshare', ['-m', 'sh', '-c', mounts, 'sh', real, ...command], {
        encoding: 'utf8',
      })
      const mine = locationInFileSystem(paths[0]!)
      const [same, bound, other] = JSON.parse(said)
      expect([same, bound]).toEqual([mine, mine])
      expect(other).toMatch(/:\/s$/)
    },
  )
})
