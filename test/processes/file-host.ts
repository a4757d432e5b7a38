import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdirSync, mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { onTestFinished } from 'vitest'
import type { StateFileOptions } from '../../src/state/file/files.js'
import type { StateFileStatus } from '../../src/state/file/state-file.js'
import type { Position } from '../../src/state/history.js'
import { bundled, shared } from './bundled.js'
import { wholeLines } from './whole-lines.js'

const CALLS = fileURLToPath(new URL('../fixtures/disk-calls.c', import.meta.url))

/** A call that brings something to the disk. */
export interface DiskCall {
  call: 'fdatasync' | 'fsync' | 'rename' | 'create'
  inode: number
  /** The file; of a rename, the new name. */
  path: string
  /** The size; of a new file, its mode. */
  size: number
  /** The errno it was made to fail with, or 0. */
  failed: number
}

/** A process that keeps a state file, and what it asks of the disk. */
export class FileHost {
  readonly folder = mkdtempSync(join(tmpdir(), 'fdb-host-'))
  readonly path = join(this.folder, 'files', 'state')
  readonly child: ChildProcess
  #answer: Promise<unknown>

  private constructor(options: Partial<StateFileOptions> & { service?: string }, path?: string) {
    mkdirSync(join(this.folder, 'files'))
    const { file, env } = bundled('state-file-host.ts')
    const library = shared('disk-calls.so', built => {
      execFileSync('cc', ['-shared', '-fPIC', '-O1', '-o', built, CALLS, '-ldl'])
    })
    this.child = spawn(process.execPath, [file], {
      stdio: ['ignore', 'pipe', 'ignore', 'ipc'],
      env: {
        ...env,
        LD_PRELOAD: library,
        FDB_DISK_UNDER: join(this.folder, 'files'),
        FDB_DISK_CALLS: join(this.folder, 'calls'),
        FDB_DISK_FAIL: join(this.folder, 'fail'),
        FDB_DISK_HOLD: join(this.folder, 'hold'),
        FDB_HOST: JSON.stringify({ path: path ?? this.path, ...options }),
      },
    })
    this.#answer = once(this.child, 'message')
    onTestFinished(() => {
      this.child.kill('SIGKILL')
      rmSync(this.folder, { recursive: true, force: true })
    })
  }

  static async start(
    options: Partial<StateFileOptions> & { service?: string } = {},
    path?: string,
  ): Promise<FileHost> {
    const host = new FileHost(options, path)
    await host.#answer
    return host
  }

  /** One at a time. Rejects with what it failed with. */
  async ask(method: 'status'): Promise<StateFileStatus>
  async ask(method: 'position'): Promise<Position>
  async ask(method: string, ...given: unknown[]): Promise<unknown>
  async ask(method: string, ...given: unknown[]): Promise<unknown> {
    this.#answer = once(this.child, 'message').then(([message]) => {
      const { answer, error } = message as { answer: unknown; error?: { message: string } }
      if (error) throw Object.assign(new Error(error.message), error)
      return answer
    })
    this.child.send([method, ...given])
    return await this.#answer
  }

  /** The next call of this name fails. */
  failNext(call: 'fdatasync' | 'fsync', errno: number): void {
    writeFileSync(join(this.folder, 'fail'), `${call} ${errno}`)
  }

  /** Syncs of files whose path has this part take until the returned function is called. */
  holdSyncs(part: string): () => void {
    const hold = join(this.folder, 'hold')
    writeFileSync(`${hold}.new`, part)
    renameSync(`${hold}.new`, hold)
    return () => rmSync(hold)
  }

  /** Whether the call that was to fail has failed. */
  get hasFailed(): boolean {
    return !existsSync(join(this.folder, 'fail'))
  }

  get calls(): DiskCall[] {
    return this.#noted().filter(({ call }) => call !== 'create')
  }

  /** The files that it made. */
  get creations(): DiskCall[] {
    return this.#noted().filter(({ call }) => call === 'create')
  }

  #noted(): DiskCall[] {
    return wholeLines(join(this.folder, 'calls')).map(line => {
      const [call, inode, path, size, failed] = line.split(' ')
      return {
        call: call as DiskCall['call'],
        inode: Number(inode),
        path: path!,
        size: Number(size),
        failed: Number(failed),
      }
    })
  }
}
