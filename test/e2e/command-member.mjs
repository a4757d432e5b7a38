// @ts-check
// A small server with commands of its own: node command-member.mjs CONTROL HOSTING
import http from 'node:http'
import { FdbError, join } from 'fd-broker'

const [control = '', hosting = 'embedded'] = process.argv.slice(2)
const member = await join({
  service: 'kiosk',
  control,
  hosting: hosting === 'daemon' ? 'daemon' : 'embedded',
})
const notes = member.section('notes')
const answer = (/** @type {unknown} */ _request, /** @type {http.ServerResponse} */ response) =>
  void response.end(`${process.pid}\n`)
const opened = await member.listen('web', 'tcp://127.0.0.1:0')
opened.serve(http.createServer(answer))
member
  .command('echo', body => body)
  .command('who', () => String(process.pid))
  .command('note', async body => {
    await notes.put(String(body), body)
    return `${notes.size}`
  })
  .command('large', body => Buffer.alloc(Number(body)))
  .command('silent', () => undefined)
  .command('refuse', () => {
    throw new FdbError('ERR_FDB_CHECK', 'not today', { retryable: true })
  })
  .command('break', () => {
    throw new TypeError('broken')
  })
  .command('move', async () => {
    const moved = await member.relisten('web', 'tcp://127.0.0.2:0')
    return moved.serve(http.createServer(answer)).address.url
  })
  .command('shut', () => {
    member.unlisten('web')
    return 'shut'
  })
await member.ready()
console.log('serving')
