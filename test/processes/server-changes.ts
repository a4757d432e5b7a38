import { OperatorClient } from '../../src/operator/client.js'
import { SERVER_COMMANDS, type ServerList } from '../../src/proxy/servers/commands.js'
import type { ServerRequest } from '../../src/proxy/servers/live-servers.js'
import { ANSWER_MS } from '../orders/operators.js'
import type { GivenOrder, OrderLedger } from './given-orders.js'

type Change = Pick<ServerRequest, 'change' | 'weight'>
const CHANGES: readonly Change[] = [
  { change: 'drain' },
  { change: 'undrain' },
  { change: 'weight', weight: 3 },
  { change: 'weight' },
]

/** Changes of one server of a proxy's upstream `app`, and what is to be in force after them. */
export class ServerChanges {
  readonly #ledger: OrderLedger
  readonly #control: string
  readonly #server: string
  readonly #orders: GivenOrder[] = []
  /** The changes that were made one after the other; null: some were given at once, or were lost with the service. */
  #made: Change[] | null = []

  constructor(ledger: OrderLedger, control: string, server: string) {
    this.#ledger = ledger
    this.#control = control
    this.#server = server
  }

  draw(below: (n: number) => number): void {
    const change = CHANGES[below(CHANGES.length)]!
    const isAlone = this.#orders.every(({ answer }) => answer !== null)
    this.#ledger.note(JSON.stringify(change))
    this.#orders.push(this.#ledger.give('servers', () => this.#ask(change)))
    if (isAlone) this.#made?.push(change)
    else this.#made = null
  }

  lose(): void {
    this.#made = null
  }

  /** As `fd-broker servers`: asks again if another process serves now. */
  async #ask(change: Change): Promise<void> {
    const request = JSON.stringify({ upstream: 'app', server: this.#server, ...change })
    for (;;) {
      using client = await OperatorClient.connect(this.#control)
      try {
        await client.command(SERVER_COMMANDS.change, request, { timeout: ANSWER_MS })
        return
      } catch (error) {
        if (!/^ERR_FDB_(?:FENCED|BUSY)$/.test((error as { code: string }).code)) throw error
      }
    }
  }

  /** Resolves with what is wrong when all orders are over. */
  async wrong(): Promise<string[]> {
    if (this.#made === null || this.#orders.some(({ answer }) => answer !== 'done')) return []
    using client = await OperatorClient.connect(this.#control)
    const { servers } = JSON.parse(`${await client.command(SERVER_COMMANDS.list, '{}')}`) as ServerList
    const { state, weight } = servers.find(({ server }) => server === this.#server) ?? {}
    const is = JSON.stringify({ isDrained: state === 'drained', weight })
    let [isDrained, wanted] = [false, 1]
    for (const { change, weight: given = 1 } of this.#made) {
      if (change === 'weight') wanted = given
      else isDrained = change === 'drain'
    }
    const ordered = JSON.stringify({ isDrained, weight: wanted })
    return is === ordered ? [] : [`the server is ${is}, and was ordered to be ${ordered}`]
  }
}
