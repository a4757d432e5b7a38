import { METRICS, type MetricName } from '../../metrics/definitions.js'
import type { Series } from '../../metrics/totals.js'
import { OperatorClient } from '../../operator/client.js'
import { GAUGES, GAUGES_MS } from '../../operator/service-commands.js'
import type { WorkerPlace } from '../../os/default-control.js'

/** Returns the gauges of all workers, which the main process asks for them, without a worker that does not answer; null if this process is no worker. */
export async function gaugesOfWorkers(place: WorkerPlace | null): Promise<Series[] | null> {
  if (place === null) return null
  const { control, service } = place
  using client = await OperatorClient.connect(control, { timeout: GAUGES_MS })
  const reply = await client.command(GAUGES, '', { service, timeout: 2 * GAUGES_MS })
  return summed((JSON.parse(reply.toString()) as Series[][]).flat())
}

/** Adds up the gauges of several processes, or takes the largest, as each is defined. Leaves out those of another release. */
export function summed(gauges: readonly Series[]): Series[] {
  const found = new Map<string, Series>()
  for (const series of gauges) {
    const { metric, labels, numbers } = series
    const key = JSON.stringify([metric, labels])
    const known = found.get(key)?.numbers[0]
    if (!Object.hasOwn(METRICS, metric)) continue
    const [value = 0] = numbers
    const both =
      METRICS[metric as MetricName].workers === 'sum' ? (known ?? 0) + value : Math.max(known ?? value, value)
    found.set(key, { metric, labels, numbers: [both] })
  }
  return [...found.values()]
}
