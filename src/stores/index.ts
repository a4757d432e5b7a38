/** fd-broker/stores: sessions and key-value stores that outlive upgrades. */

export { KeyvStore, type KeyvStoreOptions } from './keyv-store.js'
export {
  type SessionModule,
  type SessionRecord,
  type SessionStoreMethods,
  type SessionStoreOptions,
  sessionStore,
} from './session-store.js'
