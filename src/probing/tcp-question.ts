import { connect } from 'node:net'
import type { Question } from './question.js'

/** Whether it takes a connection. */
export function tcpQuestion(host: string, port: number): Question {
  return {
    asked: `connect to ${host.includes(':') ? `[${host}]` : host}:${port}`,
    ask: signal =>
      new Promise((resolve, reject) => {
        const socket = connect({ host, port, signal })
        socket.once('error', reject)
        socket.once('connect', () => {
          socket.destroy()
          resolve(null)
        })
      }),
  }
}
