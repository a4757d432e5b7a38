// @ts-check
// The routes under test: what the proxy keeps, with names as long as real ones.

/** @param {number} i */
export const keyOf = i => `file:shop-${i}.eu-west.example.com/`

/** @param {number} i */
export const routeOf = i => ({
  upstream: { name: `pool-${i % 997}.internal`, connect: false },
  created: 1_760_000_000_000 + i,
  generation: 1,
})
