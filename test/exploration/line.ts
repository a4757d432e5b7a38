import type { Report } from './search.js'

/** One line on what was visited, and one on each violation with the shortest way there. */
export function line(title: string, report: Report): string {
  const n = (x: number): string => x.toLocaleString('en-US')
  const head =
    `${title}: ${n(report.states)} states, ${n(report.transitions)} transitions, depth ${report.depth}, ` +
    `${report.exhausted ? 'exhausted' : 'stopped'}, ${report.seconds.toFixed(1)} s` +
    (report.violations.length === 0 ? ', no violation' : '')
  return [
    head,
    ...report.violations.map(v => `  ${v.what} [${v.trace.length} steps]: ${v.trace.join(' > ')}`),
  ].join('\n')
}
