/** fd-broker/sources: sections of the state that follow a store outside of the service. */

export type { EtcdTls, EtcdUser } from './etcd-gateway.js'
export { EtcdSource, type EtcdSourceOptions } from './etcd-source.js'
export { FolderSource, type FolderSourceOptions } from './folder-source.js'
export {
  type FollowedSource,
  type FollowSourceOptions,
  followSource,
  type SourceStatus,
} from './follow-source.js'
export { HttpSource, type HttpSourceOptions } from './http-source.js'
export type { KnownKeys, Source, SourceBatch, SourceChange, SourceEntry } from './source.js'
