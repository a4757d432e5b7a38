import { execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import type { Timeline } from '../../src/timeline/timeline.js'
import { NIGHTLY } from '../lanes/lane.js'
import { has } from '../processes/toolchains.js'
import { until } from '../processes/until.js'
import { Sandbox } from './cli-processes.js'

function timelineIn(page: string): Timeline {
  const [, json = ''] = /id="timeline">(.*?)<\/script>/s.exec(page) ?? []
  return JSON.parse(json)
}

describe('fd-broker upgrade --timeline', () => {
  it('writes a page with the phases of both processes', async () => {
    const sandbox = Sandbox.open()
    const old = await sandbox.shop()
    const file = join(sandbox.folder, 'upgrade.html')
    const { code, stdout } = await sandbox.run('upgrade', '--control', sandbox.control, '--timeline', file)
    expect(code).toBe(0)
    expect(stdout).toContain(`the timeline is ${file}\n`)
    const { outcome, processes, service, times } = timelineIn(readFileSync(file, 'utf8'))
    expect(service).toBe('shop')
    expect(outcome).toEqual({
      ok: true,
      text: expect.stringMatching(/^Version 2 \(pid \d+\) serves, \d+ ms/),
    })
    expect(times.length).toBeGreaterThan(3)
    expect(processes.map(({ generation }) => generation)).toEqual([1, 2])
    expect(processes[0]?.pid).toBe(old)
    const phases = processes.map(({ spans }) => spans.map(({ phase }) => phase))
    expect(phases[0]).toEqual(expect.arrayContaining(['serves', 'standby']))
    expect(phases[1]).toEqual(expect.arrayContaining(['started', 'committing', 'serves, on probation']))
  })

  it('starts no version if the page cannot be written', async () => {
    const sandbox = Sandbox.open()
    const pid = await sandbox.shop()
    const file = join(sandbox.folder, 'missing', 'upgrade.html')
    const { code, stderr } = await sandbox.run('upgrade', '--control', sandbox.control, '--timeline', file)
    expect(code).not.toBe(0)
    expect(stderr).toContain(`ERR_FDB_OPTION: --timeline: the page cannot be written to ${file}: ENOENT`)
    expect(await sandbox.status()).toMatchObject({ pid, generation: 1 })
    expect(existsSync(file)).toBe(false)
  })

  it('writes SVG, without a browser, for a file that ends with .svg', async () => {
    const sandbox = Sandbox.open()
    await sandbox.shop()
    const file = join(sandbox.folder, 'upgrade.svg')
    const { code } = await sandbox.run('upgrade', '--control', sandbox.control, '--timeline', file)
    expect(code).toBe(0)
    const svg = readFileSync(file, 'utf8')
    expect(svg).toMatch(/^<svg [^>]*>.*<\/svg>$/s)
    for (const text of ['Upgrade of shop', 'version 2 serves', 'connections', 'What each process does'])
      expect(svg).toContain(`>${text}</text>`)
  })

  it.each(['png', 'gif'])(
    'starts no version if the file has the name of another picture: .%s',
    async ending => {
      const sandbox = Sandbox.open()
      const pid = await sandbox.shop()
      const file = join(sandbox.folder, `upgrade.${ending}`)
      const { code, stderr } = await sandbox.run('upgrade', '--control', sandbox.control, '--timeline', file)
      expect(code).not.toBe(0)
      expect(stderr).toContain('ERR_FDB_OPTION: --timeline writes HTML or SVG')
      expect(await sandbox.status()).toMatchObject({ pid, generation: 1 })
      expect(existsSync(file)).toBe(false)
    },
  )

  it.runIf(NIGHTLY)('reports the upgrade also if the page cannot be written at its end', async () => {
    const sandbox = Sandbox.open()
    await sandbox.shop()
    const folder = join(sandbox.folder, 'pages')
    const file = join(folder, 'upgrade.html')
    mkdirSync(folder)
    const running = sandbox.run('upgrade', '--control', sandbox.control, '--timeline', file)
    await until('the page is there', async () => existsSync(file))
    rmSync(folder, { recursive: true })
    const { code, stderr, stdout } = await running
    expect(code).toBe(0)
    expect(stdout).toMatch(/^generation 2 \(pid \d+\) serves, after \d+ ms$/m)
    expect(stdout).not.toContain('the timeline is')
    expect(stderr).toContain(`--timeline: the page cannot be written to ${file}: ENOENT`)
    expect(await sandbox.status()).toMatchObject({ generation: 2 })
  })

  it('writes a page of an upgrade that has failed', async () => {
    const sandbox = Sandbox.open()
    await sandbox.shop()
    const file = join(sandbox.folder, 'upgrade.html')
    const command = ['--', process.execPath, '-e', 'process.exit(3)']
    const { code } = await sandbox.run(
      'upgrade',
      '--control',
      sandbox.control,
      '--timeline',
      file,
      ...command,
    )
    expect(code).not.toBe(0)
    const { outcome } = timelineIn(readFileSync(file, 'utf8'))
    expect(outcome).toEqual({ ok: false, text: expect.stringContaining('The upgrade failed after') })
  })

  it.runIf(NIGHTLY && has('chromium'))('draws the plots in a browser', async () => {
    const sandbox = Sandbox.open()
    await sandbox.shop()
    const file = join(sandbox.folder, 'upgrade.html')
    await sandbox.run('upgrade', '--control', sandbox.control, '--timeline', file)
    const flags = ['--headless', '--no-sandbox', '--disable-gpu', '--virtual-time-budget=2000', '--dump-dom']
    const dom = execFileSync(
      'chromium',
      [...flags, `--user-data-dir=${sandbox.folder}/browser`, `file://${file}`],
      {
        encoding: 'utf8',
        stdio: ['ignore', 'pipe', 'ignore'],
      },
    )
    expect(dom).toContain('>Upgrade of shop</text>')
    expect(dom.match(/>version 2 serves<\/text>/g)).toHaveLength(1)
    expect(dom).toMatch(
      />version 2 \(pid \d+\): starts \S+ reads the state, prepares itself \S+ .*serves, on probation \d/s,
    )
  })
})
