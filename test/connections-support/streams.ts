export { EventStreamEnds } from '../../src/connections/adapters/event-stream-ends.js'
export { moveStreams, type StreamHooks } from '../../src/streams/index.js'
