import { expect, it } from 'vitest'
import { page } from '../../../src/proxy/routes/commands.js'
import type { ListedRoute } from '../../../src/proxy/routes/live-routes.js'

const COUNT = 100_000

/** Many routes; tells how many keys were looked at, and how many routes were read. */
function many() {
  const seen = { keys: 0, read: 0 }
  const routes = {
    digest: 'd',
    size: COUNT,
    *keys() {
      for (let i = 0; i < COUNT; i++) {
        seen.keys++
        yield `file:h${i}.test/`
      }
    },
    describe(key: string): ListedRoute {
      seen.read++
      const host = key.slice('file:'.length, -1)
      const target = { kind: 'upstream', upstream: 'app', connect: false } as const
      return {
        host,
        listener: null,
        path: '/',
        when: null,
        origin: 'file',
        shadowed: false,
        target,
        created: 1,
        generation: 1,
      }
    },
  }
  return { seen, routes }
}

function pageFrom(from: number) {
  const { seen, routes } = many()
  const steps = page(routes, from)
  let most = 0
  for (;;) {
    const before = seen.keys
    const step = steps.next()
    most = Math.max(most, seen.keys - before)
    if (!step.done) continue
    const [head, ...lines] = step.value
      .toString()
      .trimEnd()
      .split('\n')
      .map(line => JSON.parse(line))
    return { head, lines, most, read: seen.read }
  }
}

it('pages of a list are all of it, in order', () => {
  const hosts: string[] = []
  for (let from: number | null = 0; from !== null; ) {
    const { head, lines } = pageFrom(from)
    expect(head).toMatchObject({ total: COUNT, digest: 'd' })
    hosts.push(...lines.map(({ host }) => host))
    from = head.next
  }
  expect(hosts).toEqual(Array.from({ length: COUNT }, (_, i) => `h${i}.test`))
})

it('a later page of a list is made bit by bit, and does not read what was in those before', () => {
  const { lines, most, read } = pageFrom(90_000)
  expect(lines).toHaveLength(10_000)
  expect(read).toBe(10_000)
  expect(most).toBeLessThanOrEqual(32)
})
