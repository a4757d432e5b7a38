import { readFileSync } from 'node:fs'
import { parser } from '@prometheus-io/lezer-promql'

/** A metric that a query reads, with the labels by which it selects and groups its series. */
export interface Selection {
  readonly metric: string
  readonly labels: readonly string[]
}

export interface DashboardQuery {
  /** The title of the panel, or the name of the annotation. */
  readonly title: string
  readonly expr: string
  readonly legend: string
}

interface Dashboard {
  readonly panels: readonly {
    readonly title: string
    readonly targets: readonly { readonly expr: string; readonly legendFormat: string }[]
  }[]
  readonly annotations: {
    readonly list: readonly { readonly name: string; readonly expr: string; readonly textFormat: string }[]
  }
}

export function dashboardQueries(): readonly DashboardQuery[] {
  const file = new URL('../../docs/grafana-dashboard.json', import.meta.url)
  const { annotations, panels }: Dashboard = JSON.parse(readFileSync(file, 'utf8'))
  return [
    ...panels.flatMap(({ title, targets }) =>
      targets.map(({ expr, legendFormat }) => ({ title, expr, legend: legendFormat })),
    ),
    ...annotations.list.map(({ name, expr, textFormat }) => ({ title: name, expr, legend: textFormat })),
  ]
}

/** Reads a query of Grafana by Prometheus's grammar. Throws if it is none. */
export function selectionsOf(query: string): readonly Selection[] {
  const text = query.replaceAll(/\$__(?:rate_interval|range)\b/g, '1m')
  const metrics: string[] = []
  const labels = new Set<string>()
  parser.parse(text).iterate({
    enter({ type, from, to }) {
      const part = text.slice(from, to)
      if (type.isError) throw new Error(`no PromQL at ${from}: ${query}`)
      if (type.name === 'LabelName') labels.add(part)
      if (type.name === 'Identifier') metrics.push(part)
    },
  })
  return metrics.map(metric => ({ metric, labels: [...labels] }))
}

/** The labels by which a query groups, for the texts of its legend. */
export function groupsOf(query: string): ReadonlySet<string> {
  return new Set([...query.matchAll(/\bby \(([^)]*)\)/g)].flatMap(([, names = '']) => names.split(', ')))
}
