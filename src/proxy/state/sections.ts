/** The sections of the state with the serving process's configuration, for tools and successors. The key of a setting is its path in the file, such as `timeouts.idle`. */
import type { Member, Section } from '../../index.js'
import { fdbroker } from '../../proto/proxy.js'
import { messageSection } from '../entries/message-section.js'

/** Stored entries, including fields of newer versions. Do not change them. */
export type UpstreamMessage = fdbroker.proxy.Upstream
export type ListenerMessage = fdbroker.proxy.Listener
export type SettingMessage = fdbroker.proxy.Setting

export const UPSTREAMS = 'upstreams'
export const LISTENERS = 'listeners'
export const SETTINGS = 'settings'

const { Upstream, Listener, Setting } = fdbroker.proxy

export const upstreamsSection = messageSection<UpstreamMessage, fdbroker.proxy.Upstream.$Properties>(Upstream)
export const listenersSection = messageSection<ListenerMessage, fdbroker.proxy.Listener.$Properties>(Listener)
export const settingsSection = messageSection<SettingMessage, fdbroker.proxy.Setting.$Properties>(Setting)

export interface DeclaredSections {
  readonly upstreams: Section<UpstreamMessage>
  readonly listeners: Section<ListenerMessage>
  readonly settings: Section<SettingMessage>
}

export function declaredSections(member: Pick<Member, 'section'>): DeclaredSections {
  return {
    upstreams: member.section(UPSTREAMS, upstreamsSection),
    listeners: member.section(LISTENERS, listenersSection),
    settings: member.section(SETTINGS, settingsSection),
  }
}
