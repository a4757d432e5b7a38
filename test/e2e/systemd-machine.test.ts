import { describe, expect, it } from 'vitest'
import { noMachine, runMachine, type Said } from '../processes/machine.js'

const why = noMachine()

const CONFIG = `
service: edge
control: /run/edge/edge.sock
upgrade: { probation: 2s }
listeners:
  - { name: http, address: 'tcp://0.0.0.0:80' }
  - { name: other, address: 'tcp://0.0.0.0:443' }
routes: [{ host: '*', respond: { body: fine } }]
`

const KEPT = '- { host: kept.test, respond: { body: kept } }'

describe('the units in docs/examples/systemd, as they are, with a systemd of their own', () => {
  it.skipIf(why !== null)(
    `upgrade, roll back, die and stop as systemd knows it, and refuse no connect${why === null ? '' : `: not here, ${why}`}`,
    async () => {
      const said = await runMachine('systemd-driver.mjs', { 'edge.yaml': CONFIG, 'kept.yaml': KEPT })
      const at = (step: string): Said => said.find(one => one.step === step) ?? { step: `no ${step}` }
      const pid = (step: string) => Number(at(step).MainPID)
      const running = { code: 0, ActiveState: 'active', SubState: 'running' }
      // During its probation a version serves, but the previous one is the main process.
      const others = ['reload', 'reload again', 'USR2', 'stop', 'end']
      for (const { step, MainPID, file } of said.filter(({ step }) => !others.includes(step)))
        expect({ step, MainPID }).toEqual({ step, MainPID: file })

      expect(at('end').journal).not.toMatch(/not our child|SIGKILL.*stop/)
      expect(at('start')).toMatchObject({ ...running, StatusText: 'generation 1 serves' })
      expect(at('reload')).toMatchObject({
        ...running,
        StatusText: expect.stringMatching(/^generation 2 serves/),
      })
      expect(at('reload').file).not.toBe(at('start').file)
      expect(pid('reload')).toBe(pid('start'))
      // The standby serves again, and nothing was restarted.
      expect(at('killed in probation')).toMatchObject({ ...running, NRestarts: '0' })
      expect(pid('killed in probation')).toBe(pid('start'))
      expect(at('after probation')).toMatchObject({ ...running, StatusText: 'generation 2 serves' })
      expect(pid('after probation')).toBe(Number(at('reload again').file))
      expect(at('failed reload')).toMatchObject({ ...running, code: 1 })
      expect(at('failed reload').StatusText).toMatch(
        /^generation 2 serves; the last upgrade failed: ERR_FDB_SUCC/,
      )
      expect(pid('failed reload')).toBe(pid('after probation'))
      expect(at('USR2')).toMatchObject({
        ...running,
        StatusText: expect.stringMatching(/^generation 3 serves/),
      })
      expect(at('rollback')).toMatchObject(running)
      expect(pid('after rollback')).toBe(pid('after probation'))
      // Nothing but what was under way in a process that was killed is lost.
      expect(at('after rollback').failed).toBeLessThanOrEqual(at('killed in probation').failed + 1)
      // By what systemd has kept: listeners, and every acknowledged change.
      expect(at('change')).toMatchObject({ ...running, kept: 'kept' })
      expect(at('killed')).toMatchObject({
        ...running,
        NRestarts: '1',
        StatusText: 'generation 3 serves',
        kept: 'kept',
      })
      expect(at('restart')).toMatchObject({ ...running, StatusText: 'generation 4 serves', kept: 'kept' })
      expect(at('stop')).toMatchObject({
        code: 0,
        ActiveState: 'inactive',
        MainPID: '0',
        file: null,
        refused: 0,
      })
      expect(at('stop').answered).toBeGreaterThan(300)
    },
  )

  it.skipIf(why !== null)(
    `keep fd-broker run the main process, also when it replaces itself, and its listeners until the unit stops${why === null ? '' : `: not here, ${why}`}`,
    async () => {
      const said = await runMachine('systemd-run-driver.mjs', {})
      const at = (step: string): Said => said.find(one => one.step === step) ?? { step: `no ${step}` }
      const running = { code: 0, ActiveState: 'active', SubState: 'running', NFileDescriptorStore: '1' }
      const { MainPID } = at('start')
      expect(at('start')).toMatchObject({ ...running, StatusText: 'version 1 serves' })
      expect(at('self')).toMatchObject({ ...running, MainPID, StatusText: 'version 1 serves' })
      expect(at('reload')).toMatchObject({ ...running, MainPID, StatusText: 'version 2 serves' })
      expect(at('self again')).toMatchObject({ ...running, MainPID, NRestarts: '0', failed: 0 })
      expect(at('killed')).toMatchObject({ ...running, NRestarts: '1', StatusText: 'version 1 serves' })
      expect(at('killed').MainPID).not.toBe(MainPID)
      expect(at('restart')).toMatchObject(running)
      const used = { status: 'HTTP/1.1 200 OK', state: 'deactivating', refused: 0, failed: 0 }
      // A restart: the clients that connect meanwhile wait for the next process.
      const kept = { ...running, ...used, refusedMs: null, again: 'connected', end: 'connected' }
      expect(at('restart in use')).toMatchObject(kept)
      expect(at('restart in use as root')).toMatchObject(kept)
      // A stop: they are refused while the program answers what it has.
      const gone = { ActiveState: 'inactive', NFileDescriptorStore: '0' }
      const refused = { ...gone, ...used, again: 'ECONNREFUSED', end: 'ECONNREFUSED' }
      expect(at('stop')).toMatchObject({ ...refused, refusedMs: expect.any(Number) })
      expect(at('stop as root')).toMatchObject({ ...refused, refusedMs: expect.any(Number) })
      expect(at('stop').answered).toBeGreaterThan(50)
      expect(at('end').journal).not.toContain('Got notification message from PID')
    },
  )

  it.skipIf(why !== null)(
    `upgrade the daemon, and keep what it alone holds when it is killed or restarted${why === null ? '' : `: not here, ${why}`}`,
    async () => {
      const said = await runMachine('systemd-daemon-driver.mjs', {})
      const at = (step: string): Said => said.find(one => one.step === step) ?? { step: `no ${step}` }
      const running = { code: 0, ActiveState: 'active', SubState: 'running' }
      const holds = (services: string) => `holds ${services} at /run/fd-broker/daemon.sock`
      expect(at('start')).toMatchObject({ ...running, StatusText: holds('0 services') })
      expect(at('member')).toMatchObject({ ...running, StatusText: holds('a service') })
      expect(at('reload')).toMatchObject({ ...running, NRestarts: '0', StatusText: holds('a service') })
      expect(at('reload').MainPID).not.toBe(at('start').MainPID)
      expect(at('killed')).toMatchObject({ ...running, NRestarts: '1', StatusText: holds('a service') })
      expect(at('restart')).toMatchObject({ ...running, StatusText: holds('a service') })
      const { answer, expected } = at('served')
      expect(at('served')).toMatchObject({ ...running, kept: true, answer: expected })
      expect(answer).toMatch(/^2,\d+$/)
      expect(at('stop')).toMatchObject({ ActiveState: 'inactive', MainPID: '0', NFileDescriptorStore: '0' })
    },
  )
})
