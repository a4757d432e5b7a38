import { expect, it } from 'vitest'
import { convert } from '../../../src/convert/convert.js'
import { judgeNginx } from '../../convert-support/nginx-judge.js'
import type { Asked, Got } from '../../convert-support/places.js'

const asked = (path: string, host = 'a.test'): Asked => ({
  at: 'port',
  host,
  path,
  method: 'GET',
  headers: {},
  from: '127.0.0.1',
})
const got = (status: number, server: string | null = null, headers: Record<string, string> = {}): Got => ({
  status,
  location: null,
  set: {},
  body: '',
  server,
  seen: server === null ? null : { url: '/', method: 'GET', headers },
})

/** The kinds of differences that the judge finds where nginx answers the first, and the proxy the second. */
async function kinds(
  block: string,
  pairs: readonly (readonly [Asked, theirs: Got, ours: Got])[],
): Promise<string[]> {
  const text = `http {\n${block}\n}`
  const conversion = convert(text, {
    file: '/etc/nginx/nginx.conf',
    language: 'nginx',
    service: 'edge',
    included: () => [],
  })
  const { differences } = await judgeNginx(
    { withoutNamedRefusals: async () => null },
    text,
    conversion,
    pairs.map(([each]) => each),
    pairs.map(([, theirs]) => theirs),
    pairs.map(([, , ours]) => ours),
  )
  return differences.map(each => `${each.kind} ${each.asked.host}${each.asked.path}`)
}

const server = (name: string, lines: string) => `server {\nlisten 80;\nserver_name ${name};\n${lines}\n}`

it('a remark excuses a difference only where nginx comes by its line', async () => {
  const files = 'location /a/ {\nroot /srv;\n}\nlocation / {\nproxy_pass http://one;\n}'
  const differ = (path: string, host?: string) => [asked(path, host), got(404), got(200, 'one')] as const
  expect(
    await kinds(
      `${server('a.test', files)}\n${server('b.test', 'location / {\nproxy_pass http://one;\n}')}`,
      [differ('/a/x'), differ('/d'), differ('/a/x', 'b.test')],
    ),
  ).toEqual(['open a.test/d', 'open b.test/a/x'])
  const page =
    'location /a {\nerror_page 403 =200 /d;\nproxy_pass http://one;\n}\nlocation /d {\nreturn 204;\n}'
  expect(
    await kinds(server('a.test', page), [
      [asked('/a'), got(200, 'one'), got(403)],
      [asked('/d'), got(204), got(403)],
    ]),
  ).toEqual(['closed a.test/d'])
})

it('a remark about a header excuses no other server, and one about a closed route nothing that is open', async () => {
  const header = 'location / {\nproxy_set_header X-A $unknown;\nproxy_pass http://one;\n}'
  expect(
    await kinds(server('a.test', header), [
      [asked('/1'), got(200, 'one', { 'x-a': '1' }), got(200, 'one')],
      [asked('/2'), got(200, 'one'), got(200, 'two')],
    ]),
  ).toEqual(['wrong a.test/2'])
  const closed = 'location / {\nauth_basic x;\nproxy_pass http://one;\n}'
  expect(
    await kinds(server('a.test', closed), [
      [asked('/1'), got(200, 'one'), got(403)],
      [asked('/2'), got(401), got(200, 'one')],
    ]),
  ).toEqual(['open a.test/2'])
})

it('a remark about the own path of a rewrite excuses no other path', async () => {
  const moved = 'location /d {\nrewrite ^/d/(.*)$ /a/$1 break;\nproxy_pass http://one;\n}'
  expect(
    await kinds(server('a.test', moved), [
      [asked('/d'), got(200, 'one'), got(200, 'two')],
      [asked('/d/x'), got(200, 'one'), got(200, 'two')],
    ]),
  ).toEqual(['wrong a.test/d/x'])
})
