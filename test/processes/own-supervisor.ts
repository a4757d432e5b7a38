import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { onTestFinished } from 'vitest'
import { SILENT } from '../../src/base/logger.js'
import type { VersionSettings } from '../../src/run/settings.js'
import { Supervisor } from '../../src/run/supervisor.js'
import { versionSettings } from './version-settings.js'

/** For longer than any test may take: none passes because a program has ended by itself. */
export const SLEEPS = ['sleep', '600']

/** A supervisor in this process, of programs that sleep. `source.next`: the settings of the next version, which are read when `source.ready` resolves. */
export async function supervised(first: Partial<VersionSettings>) {
  const folder = mkdtempSync(join(tmpdir(), 'fdb-supervisor-'))
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
  const source: { next: VersionSettings; ready: Promise<void> } = {
    // Without a guardian, which would outlive its supervisor for a moment.
    next: versionSettings({ command: SLEEPS, survive: true, ...first }),
    ready: Promise.resolve(),
  }
  const supervisor = await Supervisor.start({
    logger: SILENT,
    settings: {
      name: 'shop',
      control: join(folder, 'run.sock'),
      pidFile: null,
      restart: 'on-failure',
      restartDelay: 1_000,
      upgradeSignal: 'SIGHUP',
    },
    read: () => source.ready.then(() => source.next),
    readSupervisorSettings: null,
  })
  onTestFinished(async () => {
    supervisor.stop({ now: true })
    await supervisor.ended
  })
  return { supervisor, source }
}
