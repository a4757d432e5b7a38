/** fd-broker/stores: stores for sessions and for Keyv whose entries outlive upgrades. */

export { KeyvStore, type KeyvStoreOptions } from './keyv-store.js'
export {
  type SessionModule,
  type SessionRecord,
  type SessionStoreMethods,
  type SessionStoreOptions,
  sessionStore,
} from './session-store.js'
