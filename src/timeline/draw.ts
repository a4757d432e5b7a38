/** Draws a timeline, in the browser and without one. tools/bundle.mjs makes dist/timeline.cjs of this module and ECharts. */
import { CustomChart, LineChart } from 'echarts/charts'
import {
  AxisPointerComponent,
  DataZoomInsideComponent,
  GridComponent,
  LegendComponent,
  MarkLineComponent,
  TitleComponent,
  TooltipComponent,
} from 'echarts/components'
import { init, use } from 'echarts/core'
import { SVGRenderer } from 'echarts/renderers'
import { chartOf } from './chart.js'
import type { Timeline } from './timeline.js'

use([AxisPointerComponent, CustomChart, DataZoomInsideComponent, GridComponent, LegendComponent, LineChart])
use([MarkLineComponent, SVGRenderer, TitleComponent, TooltipComponent])

const WIDTH = 1000
const MARGIN = 20

/** Returns the timeline as a picture in SVG. */
export function svgOf(timeline: Timeline): string {
  const { height, option } = chartOf(timeline, WIDTH, MARGIN)
  const chart = init(null, null, { renderer: 'svg', ssr: true, width: WIDTH, height })
  chart.setOption({ ...option, backgroundColor: '#fff' })
  const svg = chart.renderToSVGString()
  chart.dispose()
  return svg
}

/** Draws into an element of a page. */
export function draw(timeline: Timeline, element: { readonly clientWidth: number }): void {
  const width = Math.max(600, element.clientWidth)
  const { height, option } = chartOf(timeline, width, 0)
  init(element as never, null, { renderer: 'svg', width, height }).setOption(option)
}
