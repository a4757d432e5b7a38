import type { ServiceStatus, StatusReport } from '../../src/operator/status-report.js'
import * as operators from '../orders/operators.js'
import { DrawnOrders } from './drawn-orders.js'
import { until } from './until.js'

/** A phase that a drawn order waits for may never come: another order has ended it. */
export const PHASE_MS = 700

/** Random orders to a service whose members decide about each other: no other process starts them. */
export abstract class MemberOrders<
  Order extends string,
  When extends string,
  Status extends ServiceStatus | StatusReport = ServiceStatus,
> extends DrawnOrders<Order, Status, When> {
  /** The processes that live. */
  protected abstract get living(): number[]
  /** As a service manager does when no process lives. */
  protected abstract startAgain(): Promise<void>

  protected async status(): Promise<Status | null> {
    return (await operators.status(this.control)) as Status | null
  }

  protected async maintain(waits: boolean): Promise<void> {
    if (waits && this.ended.length > 0)
      await until('all processes end', () => this.living.length === 0, PHASE_MS).catch(() => {})
    if (this.living.length > 0) {
      if (this.ended.length === 0) return
      const { pid, role, phase } = (await this.status()) ?? ({} as Partial<Status>)
      // Another version serves.
      if (role === 'serving' && phase === 'idle' && !this.leaving.has(pid ?? 0)) this.servesAgain()
      return
    }
    if (this.ended.length === 0) {
      this.ends('ended', null)
      this.ledger.wrong.push('the service has ended without an order')
    }
    this.releases.write('good')
    await this.startAgain()
  }
}
