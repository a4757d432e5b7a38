import { execFileSync } from 'node:child_process'
import { Agent } from 'node:http'
import { describe, expect, it, onTestFinished } from 'vitest'
import { METRICS, type MetricName, numbersOf } from '../../src/metrics/definitions.js'
import { exposition } from '../../src/metrics/exposition.js'
import { NIGHTLY } from '../lanes/lane.js'
import { ask } from '../processes/client.js'
import { dashboardQueries, groupsOf, selectionsOf } from '../processes/promql.js'
import { freePort } from '../processes/scene.js'
import { samplesOf } from '../processes/scraping.js'
import { prometheusClient } from '../processes/toolchains.js'
import { until } from '../processes/until.js'
import { behind } from './edge-behind.js'

/** The package of Prometheus for Python, whose parser of OpenMetrics is strict. */
const PARSER = prometheusClient(NIGHTLY)
const PRINT = `
import sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families
for family in text_string_to_metric_families(sys.stdin.read()): print(family.name, family.type)
`
/** Metrics that have a series only after a trouble, or with a part of the configuration that this test lacks. */
const RARE = [
  'dropped',
  'lost',
  'closed',
  'stayed',
  'drained',
  'stalls',
  'upstreamFailures',
  'serversOut',
  'forwarded',
  'http2Requests',
  'http2Bounds',
  'serverChecks',
  'queueLength',
  'queued',
  'limited',
  'authorizations',
  'authorizationTime',
  'sourceRevision',
  'sourceNewest',
  'sourceRefused',
  'sourceFailing',
] as const
/** The counts that arrive last. */
const SIGNS = [
  'fdbroker_handoffs_total{outcome="released"}',
  'fdbroker_connections_moved_total{kind="http"} 1',
]

/** The labels that Prometheus itself adds. */
const ADDED = ['job', 'instance']
const QUERIES = dashboardQueries()

/** The labels of each name in the text that has every metric. */
async function exported(): Promise<ReadonlyMap<string, readonly string[]>> {
  const series = (Object.keys(METRICS) as MetricName[]).map(metric => ({
    metric,
    labels: METRICS[metric].labels.map(() => 'x'),
    numbers: Array.from({ length: numbersOf(METRICS[metric]) }, () => 1),
  }))
  const names = [...samplesOf(await exposition(series)).keys()].map(key => {
    const [name = '', labels = ''] = key.split('{')
    return [name, [...labels.matchAll(/(\w+)="/g)].map(([, label = '']) => label)] as const
  })
  return new Map(names)
}

async function upgraded(): Promise<string> {
  const port = await freePort()
  const edge = await behind({
    routes: [{ host: '*', upstream: 'all' }],
    metrics: `tcp://127.0.0.1:${port}`,
    upgrade: { probation: '200ms', heartbeat: '50ms', silence: '2s' },
  })
  const agent = new Agent({ keepAlive: true, maxSockets: 1 })
  onTestFinished(() => agent.destroy())
  await ask(`${edge.url}/r/1`, { agent }).answer
  await edge.next()
  await ask(`${edge.url}/r/1`, { agent }).answer
  return await until('the upgrade is counted', async () => {
    const { body } = await ask(`http://127.0.0.1:${port}/metrics`).answer
    return SIGNS.every(sign => body.includes(sign)) ? body : null
  })
}

describe('a scrape after an upgrade', () => {
  it('has the metrics of every query of the dashboard, but those of troubles', async () => {
    const names = new Set([...samplesOf(await upgraded()).keys()].map(key => key.split('{')[0]))
    const asked = dashboardQueries().flatMap(({ expr }) => selectionsOf(expr).map(({ metric }) => metric))
    const rare = RARE.map(metric => METRICS[metric].name)
    const missing = asked.filter(metric => !names.has(metric) && !rare.some(name => metric.startsWith(name)))
    expect(missing).toEqual([])
  })

  it.skipIf(PARSER === null)('passes the OpenMetrics parser of Prometheus', async () => {
    const text = await upgraded()
    const env = { ...process.env, PYTHONPATH: PARSER! }
    const families = execFileSync('python3', ['-c', PRINT], { input: text, env, encoding: 'utf8' })
    const types = new Map(
      families
        .trim()
        .split('\n')
        .map(line => line.split(' ') as [string, string]),
    )
    for (const [name, type] of types)
      expect(Object.values(METRICS)).toContainEqual(expect.objectContaining({ name, type }))
    expect(types.size).toBeGreaterThan(10)
  })
})

describe('the dashboard for Grafana', () => {
  it.each(QUERIES)(
    'asks in "$title" for metrics and labels that are exported: $expr',
    async ({ expr, legend }) => {
      const names = await exported()
      const selections = selectionsOf(expr)
      expect(selections.length).toBeGreaterThan(0)
      const known = new Set(ADDED)
      for (const { metric } of selections) {
        expect([...names.keys()]).toContain(metric)
        for (const label of names.get(metric)!) known.add(label)
      }
      for (const { labels } of selections) expect([...known]).toEqual(expect.arrayContaining([...labels]))
      const shown = [...legend.matchAll(/\{\{(\w+)\}\}/g)].map(([, label = '']) => label)
      expect([...groupsOf(expr)]).toEqual(expect.arrayContaining(shown))
    },
  )

  it('shows every metric', () => {
    const shown = QUERIES.flatMap(({ expr }) => selectionsOf(expr)).map(({ metric }) => metric)
    const missing = Object.values(METRICS).filter(({ name }) => !shown.some(each => each.startsWith(name)))
    expect(missing).toEqual([])
  })

  it('reports a query that is no PromQL, and reads names and labels', () => {
    expect(() => selectionsOf('sum by (code (rate(a_total[$__range])))')).toThrow('no PromQL')
    expect(selectionsOf('sum by (code) (rate(a_total{job=~"$job"}[$__rate_interval]))')).toEqual([
      { metric: 'a_total', labels: ['code', 'job'] },
    ])
  })
})
