import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, it, onTestFinished } from 'vitest'
import { configFrom } from '../../../src/proxy/config/load.js'

function pageOf(text: string, name = 'page.http') {
  const folder = mkdtempSync(join(tmpdir(), 'fd-broker-'))
  onTestFinished(() => rmSync(folder, { recursive: true }))
  const path = join(folder, name)
  writeFileSync(path, text)
  const { errorPages } = configFrom({
    service: 'edge',
    listeners: [{ name: 'http', address: 'tcp://127.0.0.1:0' }],
    errorPages: { 503: path },
  })
  const [, page] = errorPages[0]!
  return [page.type, page.text]
}

it.each(['\n', '\r\n'])('the head of a file for another server is left out (%j)', end => {
  const head = (...lines: string[]) => lines.map(each => `${each}${end}`).join('')
  expect(
    pageOf(
      head(
        'HTTP/1.0 503 Service Unavailable',
        'Cache-Control: no-cache',
        'Content-Type: text/html',
        'A: b',
        '',
        '<p>',
      ),
    ),
  ).toEqual(['text/html', `<p>${end}`])
  expect(pageOf(head('HTTP/1.1 503', '', 'x'))).toEqual(['text/plain; charset=utf-8', `x${end}`])
})

it.each(['HTTP/1.1 is old.\n\nRead on.', 'HTTP/1.0 503 Busy\nA: b\n', ' HTTP/1.0 503 Busy\n\n'])(
  'a page that has no whole head is its body: %j',
  text => {
    expect(pageOf(text, 'page.html')).toEqual(['text/html; charset=utf-8', text])
  },
)

it('a long head without an end is read at once', () => {
  const text = `HTTP/1.0 503 Busy\n${'A: b\n'.repeat(12_000)}`
  expect(pageOf(text)[1]).toBe(text)
})
