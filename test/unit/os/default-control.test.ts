import { chownSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, it, onTestFinished } from 'vitest'
import { defaultControl, defaultPaths, hasDefaultPath, lookupPaths } from '../../../src/os/default-control.js'

const NAME = `test-${process.pid}`

function folder(): string {
  const made = mkdtempSync(join(tmpdir(), 'fdb-place-'))
  onTestFinished(() => rmSync(made, { recursive: true, force: true }))
  return made
}

describe('the control socket of a service that was given no path', () => {
  it('lies in the folders that systemd and the user have for it, in a fixed order', () => {
    expect(
      defaultPaths('shop', { RUNTIME_DIRECTORY: '/run/a:/run/b', XDG_RUNTIME_DIR: '/run/user/7' }),
    ).toEqual([
      '/run/a/shop.sock',
      '/run/b/shop.sock',
      '/run/fd-broker/shop.sock',
      '/run/user/7/fd-broker/shop.sock',
      '/run/shop/shop.sock',
    ])
    expect(defaultPaths('shop', {})).toEqual(['/run/fd-broker/shop.sock', '/run/shop/shop.sock'])
  })

  it('belongs to its main process, where it is a worker’s, and may be a daemon’s', () => {
    // The last place is that of `fd-broker/auto`, where this user has one.
    expect(lookupPaths('shop.1', {}).slice(0, 8)).toEqual([
      '/run/fd-broker/shop.1.sock',
      '/run/shop.1/shop.1.sock',
      '/run/fd-broker/shop.1.run.sock',
      '/run/shop.1/shop.1.run.sock',
      '/run/fd-broker/shop.sock',
      '/run/shop/shop.sock',
      '/run/fd-broker/daemon.sock',
      '/run/daemon/daemon.sock',
    ])
    // No worker's.
    for (const name of ['shop', 'shop.0', 'shop.a', '.1'])
      expect(lookupPaths(name, {}).slice(0, 6), name).toEqual([
        ...defaultPaths(name, {}),
        ...defaultPaths(`${name}.run`, {}).map(path => path.replace(`/run/${name}.run/`, `/run/${name}/`)),
        ...defaultPaths('daemon', {}),
      ])
  })

  it('lies in the first of them that is this user’s', () => {
    const own = folder()
    expect(defaultControl(NAME, { RUNTIME_DIRECTORY: own })).toBe(join(own, `${NAME}.sock`))
  })

  it('lies where one is already, whatever comes before', () => {
    const [own, user] = [folder(), folder()]
    const there = join(user, 'fd-broker', `${NAME}.sock`)
    mkdirSync(join(user, 'fd-broker'))
    writeFileSync(there, '')
    expect(defaultControl(NAME, { RUNTIME_DIRECTORY: own, XDG_RUNTIME_DIR: user })).toBe(there)
  })

  it.skipIf(process.geteuid?.() !== 0)('lies in no other user’s folder', () => {
    const [others, own] = [folder(), folder()]
    chownSync(others, 65_534, 65_534)
    expect(defaultControl(NAME, { RUNTIME_DIRECTORY: `${others}:${own}` })).toBe(join(own, `${NAME}.sock`))
  })

  it('lies nowhere for a name that no file can have, and says so', () => {
    expect(defaultPaths('../etc', {})).toEqual([])
    const said = expect.objectContaining({
      code: 'ERR_FDB_CONTROL_PATH',
      message: expect.stringContaining('"a/b"'),
    })
    expect(() => defaultControl('a/b', {})).toThrow(said)
    // Whether there is a folder for it is another machine's matter.
    expect([hasDefaultPath('a/b'), hasDefaultPath(NAME)]).toEqual([false, true])
  })
})
