/** Draws a timeline in the browser. tools/bundle.mjs puts this module, with uPlot, into dist/timeline.html. */
import uPlot from 'uplot'
import type { Timeline } from './timeline.js'

/** The parts of the browser's document that the page uses: the library has no types of a browser. */
interface Element {
  textContent: string | null
  className: string
  readonly clientWidth: number
  append(...children: (Element | string)[]): void
}

declare const document: {
  title: string
  createElement(name: string): Element
  getElementById(id: string): Element | null
  querySelector(selector: string): Element | null
}

/** The part of a canvas that the lanes use. */
interface Canvas {
  fillStyle: string
  font: string
  textAlign: string
  textBaseline: string
  strokeStyle: string
  beginPath(): void
  moveTo(x: number, y: number): void
  lineTo(x: number, y: number): void
  stroke(): void
  fillRect(x: number, y: number, width: number, height: number): void
  fillText(text: string, x: number, y: number): void
  measureText(text: string): { readonly width: number }
}

const COLORS = ['#8250df', '#0969da', '#1a7f37', '#9a6700', '#57606a']
const RED = '#cf222e'
const DARK = '#1b1f24'
const HEIGHT = 180
const LANE = 34
/** The width of an axis with its label. */
const AXIS_RIGHT = 90
/** From 0, so that noise does not look like a loss. */
const FROM_ZERO = {
  range: (_plot: unknown, _least: number, most: number): [number, number] => [0, 1.1 * most || 1],
}
/** All plots show the same span of time and one cursor. */
const CURSOR = { sync: { key: 'timeline' }, drag: { x: true, y: false } }

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
  gone: 'has ended',
}
const SERVES = /^serves/

const main = document.querySelector('main')
const data = document.getElementById('timeline')
if (main !== null && data !== null) draw(JSON.parse(data.textContent ?? ''), main)

function draw(timeline: Timeline, page: Element): void {
  const { clients, closed, connections, endedAt, moved, outcome, processes, service, startedAt, times } =
    timeline
  document.title = `fd-broker: upgrade of ${service}`
  const seconds = (at: number) => (at - startedAt) / 1000
  const range: [number, number] = [Math.min(0, ...times.map(seconds)), seconds(endedAt)]
  const width = Math.max(400, page.clientWidth)
  const colorOf = (pid: number) => {
    const index = processes.findIndex(process => process.pid === pid)
    return COLORS[index % COLORS.length] ?? RED
  }
  const versionOf = (pid: number) => {
    const { generation = null } = processes.find(process => process.pid === pid) ?? {}
    return generation === null ? 'next version' : `version ${generation}`
  }
  const nameOf = (pid: number) => `${versionOf(pid)} (pid ${pid})`
  /** When each version but the first has begun to serve. */
  const switches = processes
    .slice(1)
    .flatMap(({ spans }) => spans.find(({ phase }) => SERVES.test(phase))?.from ?? [])
  const drawSwitches = (plot: uPlot) => {
    const canvas = plot.ctx as unknown as Canvas
    const { height, top } = plot.bbox
    canvas.strokeStyle = DARK
    for (const at of switches) {
      const x = plot.valToPos(seconds(at), 'x', true)
      canvas.beginPath()
      canvas.moveTo(x, top)
      canvas.lineTo(x, top + height)
      canvas.stroke()
    }
  }
  const add = (name: string, text = '', className = '') => {
    const element = document.createElement(name)
    element.textContent = text
    element.className = className
    page.append(element)
    return element
  }
  const plot = (options: Partial<uPlot.Options>, series: (number | null)[][]) =>
    new uPlot(
      {
        width,
        height: HEIGHT,
        cursor: CURSOR,
        // As wide as the axis of p99, so that a time is at one place in all plots.
        padding: [
          null,
          clients.length > 0 && options.scales?.ms === undefined ? AXIS_RIGHT : null,
          null,
          null,
        ],
        scales: { x: { time: false, range }, y: FROM_ZERO },
        series: [],
        ...options,
        hooks: { draw: [...(options.hooks?.draw ?? []), drawSwitches] },
      } as uPlot.Options,
      series as uPlot.AlignedData,
      add('div') as never,
    )
  const axes = (label: string) => [
    { values: (_: unknown, ticks: number[]) => ticks.map(tick => `${tick} s`) },
    { label, size: 60 },
  ]
  const time = {
    label: 'time',
    value: (_: unknown, at: number | null) => (at === null ? '' : `${at.toFixed(3)} s`),
  }

  add('h1', `Upgrade of ${service}`)
  add('p', outcome.text, outcome.ok ? '' : 'failed')
  add(
    'p',
    `${moved} connections moved to the new version, ${closed} were closed by an older one. Started ${new Date(startedAt).toISOString()}.`,
  )
  if (switches.length > 0) add('p', 'The black line is the moment from which the new version serves.', 'note')
  add('p', 'Drag over a plot to enlarge a span of time; double-click to see the whole again.', 'note')

  if (clients.length > 0) {
    const failed = clients.reduce((sum, sample) => sum + sample.failed, 0)
    add('h2', `What clients saw: ${failed === 0 ? 'no request failed' : `${failed} requests failed`}`)
    plot(
      {
        axes: [
          ...axes('requests/s'),
          { scale: 'ms', side: 1, label: 'p99, ms', size: 60, grid: { show: false } },
        ] as uPlot.Axis[],
        scales: { x: { time: false, range }, y: FROM_ZERO, ms: FROM_ZERO },
        series: [
          time as uPlot.Series,
          { label: 'requests/s', stroke: COLORS[1] as string },
          { label: 'p99 ms', stroke: COLORS[3] as string, scale: 'ms' },
          { label: 'failed', stroke: RED, width: 3, points: { show: true, size: 8, fill: RED } },
        ],
      },
      [
        clients.map(({ at }) => seconds(at)),
        clients.map(({ perSecond }) => perSecond),
        clients.map(({ p99Ms }) => p99Ms),
        clients.map(sample => (sample.failed > 0 ? sample.failed : null)),
      ],
    )
  }

  add('h2', 'Connections by the process that owns them')
  plot(
    {
      axes: axes('connections') as uPlot.Axis[],
      series: [
        time as uPlot.Series,
        ...connections.map(({ pid }) => ({
          label: nameOf(pid),
          stroke: colorOf(pid),
          fill: `${colorOf(pid)}22`,
          width: 2,
          spanGaps: true,
        })),
      ],
    },
    [times.map(seconds), ...connections.map(({ counts }) => [...counts])],
  )

  add('h2', 'Phases of each process')
  plot(
    {
      height: 60 + LANE * processes.length,
      legend: { show: false },
      axes: [
        axes(' ')[0] as uPlot.Axis,
        {
          size: AXIS_RIGHT,
          splits: () => processes.map((_, lane) => lane + 0.5),
          values: () => processes.map(({ pid }) => versionOf(pid)).reverse(),
          grid: { show: false },
          ticks: { show: false },
        },
      ],
      scales: { x: { time: false, range }, y: { range: [0, processes.length] } },
      series: [time as uPlot.Series, { show: false }],
      hooks: {
        draw: [
          u => {
            const canvas = u.ctx as unknown as Canvas
            const ratio = u.bbox.height / (processes.length * LANE)
            canvas.font = `${Math.round(12 * ratio)}px system-ui, sans-serif`
            canvas.textAlign = 'left'
            canvas.textBaseline = 'middle'
            for (const [lane, { pid, spans }] of processes.entries()) {
              const top = u.bbox.top + lane * LANE * ratio
              for (const [index, { from, phase, to }] of spans.entries()) {
                const left = Math.max(u.bbox.left, u.valToPos(seconds(from), 'x', true))
                const right = Math.min(u.bbox.left + u.bbox.width, u.valToPos(seconds(to), 'x', true))
                if (right <= left) continue
                canvas.fillStyle = `${colorOf(pid)}${index % 2 === 0 ? 'cc' : '99'}`
                canvas.fillRect(left, top + 4 * ratio, Math.max(1, right - left - 1), (LANE - 8) * ratio)
                const text = PHASES[phase] ?? phase
                if (canvas.measureText(text).width + 8 * ratio > right - left) continue
                canvas.fillStyle = '#fff'
                canvas.fillText(text, left + 4 * ratio, top + (LANE / 2) * ratio)
              }
            }
          },
        ],
      },
    },
    [times.map(seconds), times.map(() => null)],
  )
  for (const { pid, spans } of processes)
    add(
      'p',
      `${nameOf(pid)}: ${spans.map(({ from, phase, to }) => `${PHASES[phase] ?? phase} ${((to - from) / 1000).toFixed(3)} s`).join(', ')}`,
      'note',
    )
}
