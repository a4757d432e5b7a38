import { fdbroker } from '../../proto/proxy.js'
import { messageSection } from './message-section.js'

/** An entry of the store as the state has it. Do not change it. */
export type SourceMessage = fdbroker.proxy.SourceEntry

/** The section that follows the store. A key is that of the store: `routes/HOST/PATH`, `upstreams/NAME`, `certificates/NAME`, `limits/NAME`. */
export const SOURCE = 'source'
export const ROUTE_PREFIX = 'routes/'
export const UPSTREAM_PREFIX = 'upstreams/'

/** Secret, because it may contain private keys. */
export const sourceSection = messageSection<SourceMessage, fdbroker.proxy.SourceEntry.$Properties>(
  fdbroker.proxy.SourceEntry,
  { secret: true },
)
