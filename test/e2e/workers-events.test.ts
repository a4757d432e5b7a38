import { Agent } from 'node:http'
import { describe, expect, it, onTestFinished } from 'vitest'
import type { ServiceEvent } from '../../src/events/events.js'
import { NIGHTLY } from '../lanes/lane.js'
import { ask } from '../processes/client.js'
import { Edge } from '../processes/edge.js'
import { signalPid } from '../processes/launch.js'
import { freePort } from '../processes/scene.js'
import { samplesOf, sumOf } from '../processes/scraping.js'
import { until } from '../processes/until.js'
import { wholeLines } from '../processes/whole-lines.js'
import { mainStatus, mainWhere, pidsOf, servedByAll } from '../processes/workers.js'

const SERVICES = ['edge', 'edge.1', 'fd-broker.daemon']

/** A proxy of two workers with hooks and metrics. */
async function several(probation: string) {
  const port = await freePort()
  const edge = await Edge.prepare({
    workers: 2,
    routes: [{ host: '*', respond: { status: 200, body: 'here\n' } }],
    upgrade: { probation },
    metrics: `tcp://127.0.0.1:${port}`,
  })
  const file = `${edge.sandbox.folder}/hooks`
  const command = `echo "$FD_BROKER_SERVICE $FD_BROKER_EVENT" >> ${file}`
  edge.write({ hooks: { success: command, failure: command, rollback: command } })
  const { control } = edge.sandbox
  const main = await edge.launch()
  await mainWhere(control, 'two workers serve', servedByAll(2))
  const events = async (service: string): Promise<ServiceEvent[]> => {
    const { code, stdout } = await edge.sandbox.run(
      ...['history', '--json', '--control', control, '--service', service],
    )
    expect(code).toBe(0)
    return stdout
      .trim()
      .split('\n')
      .map(line => JSON.parse(line))
  }
  /** The hooks that have run so far: `service hook`. */
  const hooks = () =>
    wholeLines(file).map(line => {
      const [service, ...json] = line.split(' ')
      const event = JSON.parse(json.join(' '))
      expect(event.service).toBe(service)
      return `${service} ${event.hook} ${event.counts?.[event.hook] ?? ''}`.trim()
    })
  const samples = async () => samplesOf((await ask(`http://127.0.0.1:${port}/metrics`).answer).body)
  const upgrade = async () =>
    expect(await edge.sandbox.run('upgrade', '--control', control)).toMatchObject({ code: 0 })
  return { edge, main, control, events, hooks, samples, upgrade }
}

describe('workers', () => {
  it('have one sequence of events, which goes on in the next main process, also if the last one was killed', async () => {
    const { edge, control, events, hooks, samples, upgrade } = await several('100ms')
    const kept = (count: number) =>
      until('the workers are kept', async () => {
        const all = await events('edge')
        return all.filter(({ type, service }) => type === 'handoff.kept' && service !== 'fd-broker.daemon')
          .length === count
          ? all
          : null
      })
    await upgrade()
    await kept(2)
    const { pid } = await mainStatus(control)
    signalPid(pid, 'SIGKILL')
    await edge.launch()
    await mainWhere(
      control,
      'another main process has the workers',
      status => status.pid !== pid && servedByAll(2)(status),
    )
    await upgrade()
    const all = await kept(4)
    expect(all.map(({ number }) => number)).toEqual(all.map((_, i) => i + 1))
    expect([...new Set(all.map(({ service }) => service))].sort()).toEqual(SERVICES)
    expect(all.filter(({ type }) => type === 'service.started')[0]).toMatchObject({ number: 1 })
    expect(
      all.filter(({ type, by }) => type === 'upgrade.ordered' && by?.uid === process.getuid!()),
    ).toHaveLength(2)
    for (const service of SERVICES) expect((await events(service)).slice(0, all.length)).toEqual(all)
    await until('the hooks have run', () => hooks().length >= 2)
    // One for each upgrade.
    expect(hooks()).toEqual(['edge success 2', 'edge success 2'])
    const counted = await until('the handoffs are counted', async () => {
      const found = await samples()
      return sumOf(found, 'fdbroker_handoffs_total', 'outcome="released"') >= 4 ? found : null
    })
    const own = all.filter(({ type }) => type === 'handoff.kept')
    expect(sumOf(counted, 'fdbroker_handoffs_total', 'outcome="released"')).toBe(own.length)
    expect(sumOf(counted, 'fdbroker_handoff_phase_seconds_count', 'phase="offering"')).toBe(own.length)
  })

  it.runIf(NIGHTLY)('run one hook for what fails, and one when all return', async () => {
    const { edge, control, events, hooks, upgrade } = await several('60s')
    const { config } = edge
    edge.write({ routes: 'none' })
    expect((await edge.sandbox.run('upgrade', '--control', control)).code).not.toBe(0)
    await until('the failure has its hook', () => hooks().length > 0)
    expect(hooks()).toEqual(['fd-broker.daemon failure'])
    edge.write(config)
    await upgrade()
    expect((await edge.sandbox.run('rollback', '--control', control)).code).toBe(0)
    await until('the rollback has its hook', () => hooks().length >= 2)
    expect(hooks().slice(1)).toEqual(['edge rollback 2'])
    const ordered = (await events('edge')).filter(({ type, by }) => type === 'rollback.ordered' && by)
    expect(ordered).toMatchObject([{ service: 'fd-broker.daemon' }])
  })

  it('show the gauges of all, whichever answers', async () => {
    const { edge, control, samples } = await several('0s')
    const all = pidsOf(await mainStatus(control)).map(String)
    const agents: Agent[] = []
    onTestFinished(() => agents.forEach(agent => void agent.destroy()))
    const answered = new Set<string>()
    await until('each has a connection', async () => {
      const agent = new Agent({ keepAlive: true, maxSockets: 1 })
      agents.push(agent)
      answered.add(String((await ask(edge.url, { agent }).answer).headers['x-pid']))
      return all.every(pid => answered.has(pid))
    })
    for (let n = 0; n < 5; n++) {
      const found = await samples()
      expect(sumOf(found, 'fdbroker_connections', 'listener="http"')).toBe(agents.length)
      expect(sumOf(found, 'fdbroker_generation')).toBe(1)
    }
  })
})
