// @ts-check
// The routes under test: what the proxy keeps, with names as long as real ones.

/** @param {number} i */
export const keyOf = i => `file:shop-${i}.eu-west.example.com/`

/** @param {number} i */
export const routeOf = i => ({
  upstream: { name: `pool-${i % 997}.internal`, connect: false },
  unlogged: false,
  created: 1_760_000_000_000 + i,
  generation: 1,
})

/** For one bulk; `turn`: another value of each. @param {number} count @param {number} [turn] */
export function* changesOf(count, turn = 0) {
  for (let i = 0; i < count; i++) yield { key: keyOf(i), value: routeOf(i + turn) }
}

/** The configuration of a proxy with these routes, as an operator writes it. @param {string} control @param {number} count @param {number} [turn] */
export function yamlOf(control, count, turn = 0) {
  const lines = [
    'service: bench-routes',
    `control: ${control}`,
    'listeners:',
    '  - name: web',
    '    address: tcp://127.0.0.1:0',
    'upgrade:',
    '  probation: 0s',
    'upstreams:',
  ]
  for (let i = 0; i < 100; i++) lines.push(`  pool-${i}:`, '    servers:', '      - http://127.0.0.1:9')
  lines.push('routes:')
  for (let i = 0; i < count; i++)
    lines.push(`  - host: shop-${i}.eu-west.example.com`, `    upstream: pool-${(i + turn) % 100}`)
  return `${lines.join('\n')}\n`
}
