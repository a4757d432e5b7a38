import type { CustomSeriesOption } from 'echarts/charts'
import type { EChartsCoreOption } from 'echarts/core'
import type { Timeline, TimelineProcess } from './timeline.js'

const COLORS = ['#8250df', '#0969da', '#1a7f37', '#9a6700', '#57606a']
const RED = '#cf222e'
const GREEN = '#1a7f37'
const DARK = '#1b1f24'
const GREY = '#57606a'
const FONT = 'system-ui, sans-serif'
const [LEFT, RIGHT, LANE, PLOT, LINE] = [80, 70, 30, 150, 22]
const Y_AXIS = { type: 'value', splitNumber: 3, minInterval: 1, axisLine: { onZero: false } }
/** The width of a letter at most: a longer text stands beside no bar. */
const LETTER = 6.5

/** The phases in words. A process that no command has started names the steps that it has done: the span is the time after the step. */
const PHASES: Readonly<Record<string, string>> = {
  started: 'starts',
  joins: 'connects',
  offering: 'reads the state, prepares itself',
  offered: 'reads the state',
  read: 'prepares itself',
  ready: 'is ready',
  quiescing: 'once-only work ends',
  freezing: 'writing ends',
  preparing: 'reads the last changes',
  prepared: 'takes over',
  committing: 'takes over',
  standby: 'stands by',
  leaving: 'moves connections',
  draining: 'moves connections',
  gone: 'has ended',
}
const SERVES = /^serves/

type RenderItem = Extract<CustomSeriesOption['renderItem'], (...args: never) => unknown>

/** One plot: a grid with its axes. */
interface Plot {
  readonly title: string
  readonly height: number
  readonly axes: readonly object[]
  readonly series: readonly object[]
  readonly legend: boolean
}

/** The picture of a timeline: options of ECharts, which draws it in a browser and, without one, as SVG. */
export interface Chart {
  readonly height: number
  readonly option: EChartsCoreOption
}

/** Returns the chart of this width. `margin`: of each side. */
export function chartOf(timeline: Timeline, width: number, margin: number): Chart {
  const { clients, connections, outcome, processes, service, startedAt, times, endedAt } = timeline
  const seconds = (at: number) => (at - startedAt) / 1_000
  const colorOf = (pid: number) => COLORS[processes.findIndex(process => process.pid === pid) % COLORS.length]
  const nameOf = (pid: number) => {
    const process = processes.find(process => process.pid === pid)
    return process === undefined ? `pid ${pid}` : `${versionOf(process)} (pid ${pid})`
  }
  const room = width - 2 * margin
  const texts = textsOf(timeline)
  const plots: Plot[] = []
  if (clients.length > 0) {
    const points = (value: (sample: Timeline['clients'][number]) => number | null) =>
      clients.map(sample => [seconds(sample.at), value(sample)])
    plots.push({
      title: 'What clients saw',
      height: PLOT,
      legend: true,
      axes: [
        { name: 'requests/s', min: 0 },
        { name: 'p99, ms', min: 0, position: 'right', splitLine: { show: false } },
      ],
      series: [
        line(
          'requests per second',
          COLORS[1],
          points(({ perSecond }) => perSecond),
        ),
        {
          ...line(
            '99 % answered within, ms',
            COLORS[3],
            points(({ p99Ms }) => p99Ms),
          ),
          right: true,
        },
        {
          ...line(
            'failed requests',
            RED,
            points(({ failed }) => (failed > 0 ? failed : null)),
          ),
          symbol: 'circle',
          symbolSize: 9,
          label: { show: true, color: RED, formatter: '{@[1]} failed' },
        },
      ],
    })
  }
  plots.push({
    title: 'Open connections of each process',
    height: PLOT,
    legend: true,
    axes: [{ name: 'connections', min: 0 }],
    series: connections.map(({ pid, counts }) => ({
      ...line(
        nameOf(pid),
        colorOf(pid),
        times.map((at, i) => [seconds(at), counts[i] ?? null]),
      ),
      areaStyle: { opacity: 0.12 },
      connectNulls: true,
    })),
  })
  plots.push({
    title: 'What each process does',
    height: LANE * processes.length,
    legend: false,
    axes: [
      {
        type: 'category',
        inverse: true,
        data: processes.map(versionOf),
        axisLine: { show: false },
        axisTick: { show: false },
      },
    ],
    series: [
      {
        type: 'custom',
        clip: true,
        renderItem: renderSpan,
        encode: { x: [1, 2], y: 0 },
        data: processes.flatMap(({ pid, spans }, lane) =>
          spans.map(({ from, phase, to }, index) => ({
            name: `${nameOf(pid)}: ${PHASES[phase] ?? phase}, ${duration(to - from)}`,
            value: [lane, seconds(from), seconds(to), PHASES[phase] ?? phase],
            itemStyle: { color: `${colorOf(pid)}${index % 2 === 0 ? 'd9' : '99'}` },
          })),
        ),
        tooltip: { trigger: 'item', formatter: ({ name }: { name: string }) => escaped(name) },
      },
    ],
  })
  const title = (text: string, top: number, style: object) => ({
    text,
    top,
    left: margin,
    padding: 0,
    textStyle: { color: DARK, fontSize: 14, fontWeight: 'normal', ...style },
  })
  let top = margin
  const titles = [title(`Upgrade of ${service}`, top, { fontSize: 20, fontWeight: 'bold' })]
  top += 34
  for (const [i, text] of texts.entries()) {
    titles.push(title(text, top, i === 0 ? { color: outcome.ok ? GREEN : RED, fontWeight: 'bold' } : {}))
    top += LINE
  }
  const grids: object[] = []
  const xAxes: object[] = []
  const yAxes: object[] = []
  const series: object[] = []
  const legends: object[] = []
  for (const [grid, plot] of plots.entries()) {
    titles.push(title(plot.title, (top += 14), { fontWeight: 'bold' }))
    top += LINE
    if (plot.legend)
      legends.push({
        top,
        left: margin + LEFT,
        padding: 0,
        icon: 'roundRect',
        itemHeight: 8,
        // Without a browser the widths of texts are estimates.
        itemGap: 50,
        textStyle: { color: GREY },
        data: plot.series.flatMap(each => ('name' in each ? [each.name] : [])),
      })
    top += plot.legend ? 40 : 6
    grids.push({ left: margin + LEFT, right: margin + RIGHT, top, height: plot.height })
    xAxes.push({
      type: 'value',
      gridIndex: grid,
      min: Math.min(0, ...times.map(seconds)),
      max: seconds(endedAt),
      axisLine: { onZero: false },
      axisLabel: { formatter: '{value} s', showMinLabel: false, showMaxLabel: false },
      axisPointer: { show: true, type: 'line', label: { show: false } },
    })
    const first = yAxes.length
    for (const axis of plot.axes) yAxes.push({ ...Y_AXIS, gridIndex: grid, ...axis })
    for (const [i, { right = false, ...each }] of (plot.series as { right?: boolean }[]).entries())
      series.push({
        ...each,
        xAxisIndex: grid,
        yAxisIndex: right ? first + 1 : first,
        ...(i === 0 && { markLine: switchLines(processes, seconds, grid === 0) }),
      })
    top += plot.height + 34
  }
  for (const process of processes) {
    const spans = process.spans.map(
      ({ from, phase, to }) => `${PHASES[phase] ?? phase} ${duration(to - from)}`,
    )
    const style = { color: GREY, fontSize: 12, width: room, overflow: 'break', lineHeight: 17 }
    const text = `${nameOf(process.pid)}: ${spans.join(', ')}`
    titles.push(title(text, top, style))
    top += 4 + 17 * Math.ceil((LETTER * text.length) / room)
  }
  const option = {
    animation: false,
    textStyle: { fontFamily: FONT },
    title: titles,
    legend: legends,
    grid: grids,
    xAxis: xAxes,
    yAxis: yAxes,
    series,
    axisPointer: { link: [{ xAxisIndex: 'all' }] },
    tooltip: {
      trigger: 'axis',
      confine: true,
      valueFormatter: (value: unknown) => (typeof value === 'number' ? String(Math.round(value)) : '–'),
    },
    dataZoom: [{ type: 'inside', xAxisIndex: xAxes.map((_, i) => i), filterMode: 'none' }],
  }
  return { height: top + margin, option }
}

function textsOf({ clients, closed, moved, outcome, processes, startedAt }: Timeline): string[] {
  const next = processes.at(-1)
  const name = next === undefined ? 'the next version' : versionOf(next)
  const failed = clients.reduce((sum, sample) => sum + sample.failed, 0)
  const worst = (of: Timeline['clients']) => Math.round(Math.max(0, ...of.map(({ p99Ms }) => p99Ms)))
  const before = clients.filter(({ at }) => at < startedAt)
  const p99 =
    `At any moment 99 % of the requests were answered within ${worst(clients)} ms` +
    (before.length > 0 ? `, before the upgrade within ${worst(before)} ms.` : '.')
  return [
    outcome.text,
    ...(clients.length > 0 ? [`${failed === 0 ? 'No request' : failed} failed. ${p99}`] : []),
    `${moved} open connections moved to ${name}; older versions closed ${closed}. Others ended by themselves.`,
    `The upgrade begins at 0 s, ${new Date(startedAt).toISOString()}. From the black line on ${name} serves.`,
  ]
}

/** When each version but the first has begun to serve. */
function switchLines(
  processes: readonly TimelineProcess[],
  seconds: (at: number) => number,
  isLabelled: boolean,
): object {
  return {
    symbol: 'none',
    silent: true,
    lineStyle: { color: DARK, type: 'solid', width: 2 },
    label: { show: isLabelled, formatter: '{b}', color: DARK, distance: 3 },
    data: processes.slice(1).flatMap(process => {
      const serves = process.spans.find(({ phase }) => SERVES.test(phase))
      return serves === undefined
        ? []
        : [{ name: `${versionOf(process)} serves`, xAxis: seconds(serves.from) }]
    }),
  }
}

function line(name: string, color: string | undefined, data: readonly (readonly (number | null)[])[]) {
  return { type: 'line', name, data, color, symbol: 'none', lineStyle: { width: 2 } }
}

/** Draws a phase as a bar, with its name if that has room. */
const renderSpan: RenderItem = (params, api) => {
  const [left = 0, y = 0] = api.coord([api.value(1), api.value(0)])
  const [right = 0] = api.coord([api.value(2), api.value(0)])
  const { x: start, width } = params.coordSys as unknown as { x: number; width: number }
  const from = Math.max(start, left)
  const to = Math.min(start + width, right)
  const text = String(api.value(3))
  return {
    type: 'rect',
    shape: { x: from, y: y - LANE / 2 + 3, width: Math.max(1, to - from - 1), height: LANE - 6 },
    style: { fill: api.visual('color') as string },
    ignore: to <= from,
    textContent: {
      type: 'text',
      style: { text, fill: '#fff', fontFamily: FONT },
      ignore: text.length * LETTER + 8 > to - from,
    },
    textConfig: { position: 'insideLeft' },
  }
}

function versionOf({ generation }: TimelineProcess): string {
  return generation === null ? 'next version' : `version ${generation}`
}

function duration(ms: number): string {
  // With spaces at which no line breaks.
  return ms < 1_000 ? `${Math.round(ms)}\u00a0ms` : `${(ms / 1_000).toFixed(2)}\u00a0s`
}

function escaped(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;')
}
