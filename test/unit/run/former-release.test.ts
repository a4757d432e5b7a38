import { mkdirSync, mkdtempSync, realpathSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { beforeEach, expect, it, onTestFinished } from 'vitest'
import { RunSources } from '../../../src/cli/run-sources.js'
import { KnownVersions } from '../../../src/run/known-versions.js'
import { startedIn } from '../../fixtures/run.js'

let folder: string
let link: string

/** `current` leads to the release `1`. Both releases have the entries `server` and `worker`. */
beforeEach(() => {
  folder = realpathSync(mkdtempSync(join(tmpdir(), 'fdb-former-')))
  onTestFinished(() => rmSync(folder, { recursive: true }))
  link = join(folder, 'current')
  for (const release of ['1', '2'])
    for (const name of ['server', 'worker']) mkdirSync(join(folder, release, name), { recursive: true })
  symlinkSync('1', link)
})

/** Returns command and folder with which version 1 is started again when `current` leads to the release `2`. */
async function again(command: readonly string[], flags: { cwd?: string } = {}) {
  const settings = await new RunSources(command, flags).versionSettings()
  const known = new KnownVersions([])
  known.record(1, settings, null, null)
  const left = JSON.parse(JSON.stringify(known.snapshot))
  rmSync(link)
  symlinkSync('2', link)
  const { command: words, cwd } = new KnownVersions(left).settingsOf(1)!
  return [words.map(word => word.replace(folder, 'ROOT')), cwd?.replace(folder, 'ROOT')]
}

it('a version is started again in its release if the start folder was entered through a link', async () => {
  startedIn(link)
  expect(await again(['./server', 'worker', '-v'])).toEqual([['ROOT/1/server', 'worker', '-v'], 'ROOT/1'])
})

it('a word keeps its text where the working folder of the former release has what it names', async () => {
  startedIn(folder)
  const cwd = link
  expect(await again(['node', 'worker', './worker', ''], { cwd })).toEqual([
    ['node', 'worker', './worker', ''],
    'ROOT/1',
  ])
})

it('the name of a program that PATH leads to is no file of the working folder', async () => {
  startedIn(folder)
  expect(await again(['server'], { cwd: link })).toEqual([['server'], 'ROOT/1'])
})

it('a path through the link is replaced, whatever the working folder is', async () => {
  startedIn(folder)
  expect(await again([`${link}/server`, `${link}/worker`, 'current/worker'], { cwd: folder })).toEqual([
    ['ROOT/1/server', 'ROOT/1/worker', 'ROOT/1/worker'],
    'ROOT',
  ])
})

it('program and argument of the same text are different files if their folders differ', async () => {
  startedIn(folder)
  symlinkSync('1/server', join(folder, 'worker'))
  expect(await again(['./worker', './worker'], { cwd: link })).toEqual([['./worker', './worker'], 'ROOT/1'])
})

it('no link, no change', async () => {
  startedIn(join(folder, '1'))
  expect(await again(['./server', 'worker'])).toEqual([['./server', 'worker'], undefined])
})

it('a relative folder or file of settings follows the link by which the start folder was entered', async () => {
  startedIn(link)
  writeFileSync(join(folder, '1', 'run.yaml'), 'command: [first]\n')
  writeFileSync(join(folder, '2', 'run.yaml'), 'command: [second]\n')
  const sources = new RunSources([], { cwd: '.', config: 'run.yaml' })
  const read = async () => {
    const { command, cwd } = await sources.versionSettings()
    return [command, cwd]
  }
  expect(await read()).toEqual([['first'], link])
  rmSync(link)
  symlinkSync('2', link)
  expect(await read()).toEqual([['second'], link])
})
