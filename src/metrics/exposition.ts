import { type ExposedMetric, type ExposedValue, promClient } from '../base/lazy.js'
import { type Definition, METRICS, type MetricName } from './definitions.js'
import type { Series } from './totals.js'

export const CONTENT_TYPE = 'application/openmetrics-text; version=1.0.0; charset=utf-8'

/** Returns the series as OpenMetrics text, by `prom-client`. Leaves out metrics without a series. */
export async function exposition(series: Iterable<Series>): Promise<string> {
  const { Registry } = promClient()
  const registry = new Registry(CONTENT_TYPE)
  const byMetric = new Map<MetricName, ExposedValue[]>()
  for (const { metric, labels, numbers } of series) {
    const values = byMetric.get(metric) ?? []
    byMetric.set(metric, values)
    values.push(...valuesOf(METRICS[metric], labels, numbers))
  }
  for (const [metric, values] of byMetric) {
    const { name, help, type } = METRICS[metric]
    const exposed: ExposedMetric = { name, help, type, values, get: () => exposed }
    registry.registerMetric(exposed)
  }
  return await registry.metrics()
}

function valuesOf(
  definition: Definition,
  labelValues: readonly string[],
  numbers: readonly number[],
): ExposedValue[] {
  const { name, labels: names, columns, buckets } = definition
  const labels = Object.fromEntries(names.map((label, i) => [label, labelValues[i] ?? '']))
  if (buckets !== undefined) {
    const { values, count } = buckets.reduce<{ values: ExposedValue[]; count: number }>(
      ({ values, count }, le, i) => {
        const upTo = count + (numbers[i] ?? 0)
        values.push({ metricName: `${name}_bucket`, labels: { ...labels, le: String(le) }, value: upTo })
        return { values, count: upTo }
      },
      { values: [], count: 0 },
    )
    const all = count + (numbers[buckets.length] ?? 0)
    return [
      ...values,
      { metricName: `${name}_bucket`, labels: { ...labels, le: '+Inf' }, value: all },
      { metricName: `${name}_sum`, labels, value: numbers[buckets.length + 1] ?? 0 },
      { metricName: `${name}_count`, labels, value: all },
    ]
  }
  if (columns === undefined) return [{ labels, value: numbers[0] ?? 0 }]
  return columns.values.map((column, i) => ({
    labels: { ...labels, [columns.label]: column },
    value: numbers[i] ?? 0,
  }))
}
