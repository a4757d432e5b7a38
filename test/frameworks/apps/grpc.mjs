import { readFileSync } from 'node:fs'
import grpc from '@grpc/grpc-js'

const text = {
  requestSerialize: value => Buffer.from(value),
  requestDeserialize: bytes => bytes.toString(),
  responseSerialize: value => Buffer.from(value),
  responseDeserialize: bytes => bytes.toString(),
}
const shop = {
  ask: { path: '/Shop/Ask', requestStream: false, responseStream: false, ...text },
  talk: { path: '/Shop/Talk', requestStream: true, responseStream: true, ...text },
}
const server = new grpc.Server()
server.addService(shop, {
  ask: (call, reply) => reply(null, `${call.request} to pid ${process.pid}`),
  talk: call => {
    call.on('data', question => call.write(`${question} to pid ${process.pid}`))
    call.on('end', () => call.end())
  },
})
const secrets = process.env.TLS
const credentials = secrets
  ? grpc.ServerCredentials.createSsl(null, [
      { private_key: readFileSync(`${secrets}.key`), cert_chain: readFileSync(`${secrets}.crt`) },
    ])
  : grpc.ServerCredentials.createInsecure()
server.bindAsync('127.0.0.1:8080', credentials, error => {
  if (error) throw error
})
process.on('SIGTERM', () => server.tryShutdown(() => process.exit()))
