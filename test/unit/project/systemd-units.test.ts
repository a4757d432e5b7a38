import { spawnSync } from 'node:child_process'
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, it, onTestFinished } from 'vitest'

const root = fileURLToPath(new URL('../../..', import.meta.url))
const folder = join(root, 'docs/examples/systemd')
const units = readdirSync(folder)
const text = (unit: string) => readFileSync(join(folder, unit), 'utf8')

/** Which systemd there is here; null: none that can check units. */
function analyzer(): string | null {
  const { status, stdout } = spawnSync('systemd-analyze', ['--version'], { encoding: 'utf8' })
  return status === 0 ? stdout.split('\n')[0]! : null
}

describe('the units in docs/examples/systemd', () => {
  it('have a link each in docs/systemd.md', () => {
    const page = readFileSync(join(root, 'docs', 'systemd.md'), 'utf8')
    const linked = [...page.matchAll(/\]\(examples\/systemd\/([^)]+)\)/g)].map(([, unit]) => unit!)
    expect(linked.sort()).toEqual([...units].sort())
  })

  it('have a folder for code that V8 has compiled if they run the command as a user that does not own the package', () => {
    const ofOthers = units.filter(unit => /^ExecStart=\S*\/fd-broker .*^User=/ms.test(text(unit)))
    expect(ofOthers).toEqual(['edge.service', 'run.service'])
    for (const unit of ofOthers) expect(text(unit), unit).toMatch(/^CacheDirectory=\w+$/m)
  })

  it('have an upgrade as their ExecReload if they serve, of the service that they start', () => {
    const serving = units.filter(unit => /^ExecStart=/m.test(text(unit)))
    expect(serving.length).toBeGreaterThan(3)
    for (const unit of serving) {
      const reload = /^ExecReload=\/usr\/bin\/fd-broker upgrade (?:--self )?--control (\S+)$/m.exec(
        text(unit),
      )
      expect(reload, unit).not.toBeNull()
    }
  })

  it.skipIf(analyzer() === null)(
    `pass systemd-analyze verify (${analyzer() ?? 'there is none here'})`,
    () => {
      const folder = mkdtempSync(join(tmpdir(), 'fdb-units-'))
      onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
      // The programs of these units are not installed here.
      for (const unit of units)
        writeFileSync(
          join(folder, unit),
          text(unit).replace(/(?<==)\/usr\/bin\/(?:fd-broker|node)\b/g, process.execPath),
        )
      const paths = units.map(unit => join(folder, unit))
      const { status, stderr } = spawnSync('systemd-analyze', ['verify', '--man=no', ...paths], {
        encoding: 'utf8',
        env: { ...process.env, SYSTEMD_UNIT_PATH: `${folder}:` },
      })
      const faults = stderr.split('\n').filter(line => units.some(unit => line.includes(unit)))
      expect({ status, faults }).toEqual({ status: 0, faults: [] })
    },
  )
})
