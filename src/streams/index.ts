/** fd-broker/streams: answers that are being streamed move to the next version; channels of server-sent events. */

import type { IncomingMessage, Server, ServerResponse } from 'node:http'
import { checkOptions, hook } from '../checks/options.js'
import { inspected } from '../checks/place.js'
import { map, required, type ShapeOf } from '../checks/shape.js'
import { addTakenOver, takenOverFor } from '../connections/adapters/taken-over.js'
import { FdbError } from '../errors.js'
import { isHttpServer, isHttpsServer } from '../node/http-connections.js'
import { MovedAnswers } from './moved-answers.js'

export { EventChannels, type EventChannelsOptions, type PublishOptions } from './event-channels.js'

export interface StreamHooks {
  /**
   * Called for an answer whose head was sent and that has not ended, when its connection is about to leave. Returns the application's data about it (`new
   * Uint8Array()` for none), or undefined or null if the answer stays in this process; the hook is called again later. When the hook has returned data, the
   * application must forget both objects, which emit 'close' without an error: later writes are lost, and earlier ones still reach the
   * client. If the connection cannot move, the answer comes back through {@link restore} in this process.
   */
  serialize(request: IncomingMessage, response: ServerResponse): Uint8Array | null | undefined
  /**
   * Continues an answer: in the next process, or in this one if it could not move. Both objects are new, without listeners of the application; `request` has no
   * body, and the server emits no 'request'. Writes of the hook are sent when it has returned; `response.socket` is null until then.
   */
  restore(request: IncomingMessage, response: ServerResponse, data: Uint8Array): void
}

const HOOKS = map({
  serialize: required(hook<StreamHooks['serialize']>()),
  restore: required(hook<StreamHooks['restore']>()),
} satisfies ShapeOf<StreamHooks>)

/**
 * Moves the unfinished answers of `server` to the next version in an upgrade, at any byte: the client sees one answer, and its next request goes over the same
 * connection. Call it before the server's first connection. Throws ERR_FDB_OPTION.
 */
export function moveStreams(server: Server, hooks: StreamHooks): void {
  checkOptions('moveStreams()', hooks, HOOKS)
  if (typeof server !== 'object' || server === null || !(isHttpServer(server) || isHttpsServer(server)))
    throw new FdbError(
      'ERR_FDB_OPTION',
      `${inspected(server)} is no http.Server or https.Server: give moveStreams() the server that the application's streams belong to`,
    )
  const protocol = 'http-answer/1'
  if (takenOverFor(server, protocol) !== undefined)
    throw new FdbError('ERR_FDB_OPTION', 'moveStreams() was already called for this server: call it once')
  const { serialize, restore } = hooks
  const remove = addTakenOver(
    new MovedAnswers({
      protocol,
      server,
      hasAnswer: response => (response.req.socket as unknown as { server?: Server }).server === server,
      serialize: (request, response) => serialize.call(hooks, request, response),
      restore: (request, response, data) => restore.call(hooks, request, response, data),
    }),
  )
  server.once('close', remove)
}
