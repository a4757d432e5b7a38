import { connect } from 'node:net'
import type { Probe } from './probe.js'
import { Repeated } from './repeated-probe.js'

export function tcpProbe(host: string, port: number): Probe {
  return new Repeated(
    signal =>
      new Promise((resolve, reject) => {
        const socket = connect({ host, port, signal })
        socket.once('error', reject)
        socket.once('connect', () => {
          socket.destroy()
          resolve(null)
        })
      }),
  )
}
