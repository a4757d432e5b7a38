import { spawnSync } from 'node:child_process'
import { chmodSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { expect, it, onTestFinished } from 'vitest'
import { needsRoot, SECOND_UID } from '../processes/second-user.js'

const CLI = fileURLToPath(new URL('../../dist/cli.cjs', import.meta.url))

/** A folder that everybody may enter, with one that only its owner may. */
function folders() {
  const open = mkdtempSync(join(tmpdir(), 'fdb-open-'))
  chmodSync(open, 0o777)
  onTestFinished(() => rmSync(open, { recursive: true, force: true }))
  const closed = join(open, 'closed')
  mkdirSync(closed, { mode: 0o700 })
  return { open, closed }
}

/** The end of a command that another user than that of the folders calls. */
function asOther(folder: string, ...args: string[]) {
  const { NODE_OPTIONS: _, ...env } = process.env
  const { status, stderr } = spawnSync(process.execPath, [CLI, ...args], {
    cwd: folder,
    env: { ...env, HOME: folder, FD_BROKER_CODE_CACHE: 'off' },
    uid: SECOND_UID,
    gid: SECOND_UID,
    encoding: 'utf8',
    timeout: 20_000,
  })
  return { code: /ERR_FDB_\w+/.exec(stderr)?.[0], status, stderr }
}

it.for([
  ['fd-broker serve', 'ERR_FDB_CONTROL_PATH', 1, ['serve', '--control', 'IN/d.sock']],
  ['fd-broker run', 'ERR_FDB_CONTROL_PATH', 1, ['run', '--control', 'IN/r.sock', '--', 'cat']],
  ['state diff', 'ERR_FDB_STATE_FILE', 1, ['state', 'diff', 'IN/a', 'IN/b']],
  ['rollback --at', 'ERR_FDB_RELEASE_LINK', 1, ['rollback', '--control', 'IN/x.sock', '--at', 'IN/current']],
  ['status --pid-file', 'ERR_FDB_DENIED', 5, ['status', '--pid-file', 'IN/pid']],
] as const)(
  '%s names the path in a folder that its user may not enter: %s',
  ([, code, status, args], context) => {
    needsRoot(context)
    const { open, closed } = folders()
    writeFileSync(join(closed, 'pid'), `${process.pid}\n`)
    symlinkSync('releases/1', join(closed, 'current'))
    const named = args.map(word => word.replace(/^IN/, closed))
    const end = asOther(open, ...named)
    expect(end, end.stderr).toMatchObject({ code, status })
    expect(end.stderr).toContain('EACCES')
    expect(end.stderr).toContain(closed)
    expect(end.stderr).not.toMatch(/^ +at /m)
  },
)

it('rollback --at says that the path is a folder, not that it is missing', () => {
  const { closed } = folders()
  const { stderr } = spawnSync(process.execPath, [CLI, 'rollback', '--control', closed, '--at', closed], {
    encoding: 'utf8',
  })
  expect(stderr).toContain(`${closed} is neither a symbolic link nor a file`)
})
