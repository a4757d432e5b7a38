// @ts-check
// A small member of a daemon: node cli-member.mjs CONTROL SERVICE [STATEFILE]
import http from 'node:http'
import { codec, defineSection, join } from 'fd-broker'

const [control = '', service = '', stateFile] = process.argv.slice(2)
const member = await join({ service, control, hosting: 'daemon', ...(stateFile && { stateFile }) })
const visits = member.section('visits', defineSection({ version: 1, codec: codec.json() }))
const web = await member.listen('web', 'tcp://127.0.0.1:0')
web.serve(http.createServer((_request, response) => response.end(`${member.generation},${process.pid}\n`)))
await member.ready()
if (visits.size === 0) await visits.put('first', process.pid)
