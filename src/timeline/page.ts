import type { Timeline } from './timeline.js'

/** The place of the data in the page. */
const DATA = '<!-- data -->'

/**
 * Returns the page of a timeline: one file that loads nothing. `shell` is dist/timeline.html, which draws the data.
 *
 * Escapes `<`, so that a name in the data cannot end the script element.
 */
export function timelinePage(shell: string, timeline: Timeline): string {
  const json = JSON.stringify(timeline).replaceAll('<', '\\u003c')
  const [before = '', after = ''] = shell.split(DATA)
  return `${before}<script type="application/json" id="timeline">${json}</script>${after}`
}

/** Returns dist/timeline.html. `script`: draw.ts with its library; `style`: that of the library. */
export function timelineShell(script: string, style: string): string {
  return `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>fd-broker upgrade</title>
<style>
${style}
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem; color: #1b1f24; background: #fff }
h1 { font-size: 1.4rem; margin: 0 }
h2 { font-size: 1rem; margin: 1.6rem 0 .2rem }
p { margin: .2rem 0 }
.failed { color: #b3261e }
.note { color: #57606a; font-size: .85rem }
table { border-collapse: collapse; font-size: .85rem; margin-top: .4rem }
td, th { padding: .15rem 1rem .15rem 0; text-align: left; font-variant-numeric: tabular-nums }
</style>
<body>
<main></main>
${DATA}
<script>
${script.replaceAll('</script', '<\\/script')}
</script>
</body>
</html>
`
}
