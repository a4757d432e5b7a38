import type { Timeline } from './timeline.js'

/** The parts of dist/timeline.cjs. */
export interface Drawing {
  svgOf(timeline: Timeline): string
}

/**
 * Returns the page of a timeline: one file that loads nothing. `script`: the text of dist/timeline.cjs, which draws the data.
 *
 * Escapes `<`, so that a name in the data cannot end the script element.
 */
export function timelinePage(script: string, timeline: Timeline): string {
  const json = JSON.stringify(timeline).replaceAll('<', '\\u003c')
  return `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>fd-broker: an upgrade</title>
<style>
body { font: 14px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem; color: #1b1f24; background: #fff }
p { color: #57606a }
</style>
<body>
<main></main>
<p>Point at a plot to read its values; turn the wheel over it to enlarge a span of time, and drag to move that.</p>
<script type="application/json" id="timeline">${json}</script>
<script>
${script.replaceAll('</script', '<\\/script')}
fdBrokerTimeline.draw(JSON.parse(document.getElementById('timeline').textContent), document.querySelector('main'))
</script>
</body>
</html>
`
}
