import { mkdirSync, mkdtempSync, readdirSync, readlinkSync, rmSync, symlinkSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, it, onTestFinished } from 'vitest'
import { SILENT } from '../../../src/base/logger.js'
import { linkTargets, switchLink } from '../../../src/os/release-link.js'
import { KnownVersions, ReleaseLinks } from '../../../src/run/known-versions.js'
import { initial, type SupervisorState } from '../../../src/versions/version-machine.js'
import { untyped } from '../../fixtures/untyped.js'

const SETTINGS = untyped<Parameters<KnownVersions['record']>[1]>({ command: ['server'] })

type Phase = SupervisorState['versions'][number]['phase']

/** Versions by their phases; `of`: as which earlier one the last is started. */
function state(phases: Record<number, Phase>, of: number | null = null): SupervisorState {
  const ids = Object.keys(phases).map(Number)
  const fresh = { askers: [], doomed: false, last: false, proved: false, sick: false, wanted: false }
  const versions = ids.map(id => ({ ...fresh, id, phase: phases[id]!, of: id === ids.at(-1) ? of : null }))
  return { ...initial(), versions }
}

/** Version 1 serves from the release `1`. */
function scene(name = 'current') {
  const folder = mkdtempSync(join(tmpdir(), 'fdb-links-'))
  onTestFinished(() => rmSync(folder, { recursive: true }))
  for (const release of ['1', '2', '3']) mkdirSync(join(folder, release))
  const at = join(folder, name)
  symlinkSync(join(folder, '1'), at)
  const known = new KnownVersions([])
  known.record(1, SETTINGS, null, null)
  const links = new ReleaseLinks(known, SILENT, 1)
  return {
    at,
    folder,
    known,
    links,
    install: (id: number, now: number, by = links) => {
      by.install(id, { at, to: join(folder, String(id)) }, now)
      known.record(id, SETTINGS, null, null)
    },
    led: () => [at, `${at}.previous`].map(path => linkTargets(path)?.to.slice(folder.length + 1) ?? null),
  }
}

describe('the link of releases', () => {
  it('leads to the release of a version before it is started, and back when the version is gone', () => {
    const { install, led, links } = scene()
    install(2, 1)
    expect(led()).toEqual(['2', '1'])
    links.follow(state({ 1: 'serving', 2: 'starting' }))
    expect(led()).toEqual(['2', '1'])
    links.follow(state({ 1: 'serving', 2: 'stopping' }))
    expect(led()).toEqual(['1', null])
  })

  it('follows falls in probation to each version before, with what was kept then', () => {
    const { install, known, led, links } = scene()
    install(2, 1)
    links.follow(state({ 1: 'stopping', 2: 'serving' }))
    install(3, 2)
    links.follow(state({ 2: 'stopping', 3: 'serving' }))
    expect(led()).toEqual(['3', '2'])
    links.follow(state({ 4: 'spawning' }, 2))
    known.record(4, SETTINGS, null, 2)
    links.follow(state({ 4: 'serving' }, 2))
    expect(led()).toEqual(['2', '1'])
    links.follow(state({ 5: 'spawning' }, 1))
    expect(led()).toEqual(['1', null])
  })

  it('leads to the release of a version that is not healthy again, where the one before does not come up', () => {
    const { install, led, links } = scene()
    install(2, 1)
    links.follow(state({ 2: 'serving' }))
    links.follow(state({ 2: 'serving', 3: 'spawning' }, 1))
    expect(led()).toEqual(['1', null])
    links.follow(state({ 2: 'serving' }))
    expect(led()).toEqual(['2', '1'])
  })

  it('returns by the supervisor that went on as another program', () => {
    const { install, known, led, links } = scene()
    install(2, 1)
    links.follow(state({ 2: 'serving' }))
    const left = JSON.parse(JSON.stringify(known.snapshot))
    new ReleaseLinks(new KnownVersions(left), SILENT, 2).follow(state({ 3: 'spawning' }, 1))
    expect(led()).toEqual(['1', null])
  })

  it('stays where an operator has led it by hand before an upgrade without a release', () => {
    const { at, folder, install, led, links } = scene()
    install(2, 1)
    links.follow(state({ 2: 'serving' }))
    rmSync(at)
    symlinkSync(join(folder, '3'), at)
    links.follow(state({ 2: 'serving', 3: 'spawning' }))
    expect(led()[0]).toBe('3')
    links.follow(state({ 2: 'stopping', 3: 'serving' }))
    expect(led()[0]).toBe('3')
  })

  it('may lead to a release by a path relative to its folder: it leads back there', () => {
    const { at, install, led, links } = scene('relative')
    rmSync(at)
    symlinkSync('1', at)
    install(2, 1)
    links.follow(state({ 1: 'serving', 2: 'stopping' }))
    expect([readlinkSync(at), led()[1]]).toEqual(['1', null])
  })

  it('causes an error with the reason if it cannot be changed, and all is as it was', () => {
    // The name of what is kept beside it would be too long.
    const { at, folder, install } = scene('c'.repeat(250))
    const before = readdirSync(folder)
    expect(() => install(2, 1)).toThrow(
      expect.objectContaining({
        code: 'ERR_FDB_RELEASE_LINK',
        message: expect.stringMatching(/ENAMETOOLONG/),
      }),
    )
    expect([readdirSync(folder), readlinkSync(at)]).toEqual([before, join(folder, '1')])
  })

  /** Paths that the steps of the switch need: a step fails if a folder is there. */
  const OBSTACLES: readonly [string, (at: string) => string][] = [
    ['the link that keeps the previous release', at => `${at}.previous`],
    ['the new link of the previous release', at => `${at}.previous.${process.pid}~`],
    ['the new link', at => `${at}.${process.pid}~`],
  ]

  it.each(OBSTACLES)('leads where it led if a folder is in the place of %s', (_, obstacleOf) => {
    const { at, folder, install, links } = scene()
    const obstacle = obstacleOf(at)
    // The release before is kept, and stays so.
    if (obstacle !== `${at}.previous`) symlinkSync(join(folder, '3'), `${at}.previous`)
    mkdirSync(obstacle)
    const before = linkTargets(at)
    expect(() => install(2, 1)).toThrow(expect.objectContaining({ code: 'ERR_FDB_RELEASE_LINK' }))
    // A supervisor that is killed now has not switched.
    expect(readlinkSync(at)).toBe(join(folder, '1'))
    links.follow(state({ 1: 'serving' }))
    expect(linkTargets(at)).toEqual(before)
    // Without the obstacle the same order succeeds.
    rmSync(obstacle, { recursive: true })
    install(2, 1)
    expect([at, `${at}.previous`].map(path => readlinkSync(path))).toEqual([
      join(folder, '2'),
      join(folder, '1'),
    ])
  })

  it('causes an error that names the path if a release, or the link, cannot be looked at', () => {
    const { at, folder, links } = scene()
    const loop = join(folder, 'loop')
    symlinkSync(loop, loop)
    const install = (release: { at: string; to: string }) => () => links.install(2, release, 1)
    const unseen = (path: string) => ({
      code: 'ERR_FDB_RELEASE_LINK',
      message: expect.stringContaining(`${path} cannot be looked at (ELOOP)`),
    })
    expect(install({ at, to: loop })).toThrow(expect.objectContaining(unseen(loop)))
    const beyond = join(loop, 'current')
    expect(install({ at: beyond, to: join(folder, '2') })).toThrow(expect.objectContaining(unseen(beyond)))
  })

  it('stays where it leads if the link cannot be looked at when its version is gone', () => {
    const { folder, known, led, links } = scene()
    const way = join(folder, 'way')
    symlinkSync(folder, way)
    links.install(2, { at: join(way, 'current'), to: join(folder, '2') }, 1)
    known.record(2, SETTINGS, null, null)
    rmSync(way)
    symlinkSync(way, way)
    links.follow(state({ 1: 'serving', 2: 'stopping' }))
    expect(led()).toEqual(['2', '1'])
  })

  it('never leads to a missing release', () => {
    const { at, folder, led } = scene()
    const nowhere = { to: join(folder, 'none'), previous: null }
    expect(() => switchLink(at, nowhere)).toThrow(expect.objectContaining({ code: 'ERR_FDB_NO_BINARY' }))
    expect(led()).toEqual(['1', null])
  })
})
