export { EventStreamEnds } from '../../src/connections/adapters/event-stream-ends.js'
export { EventChannels, moveStreams, type StreamHooks } from '../../src/streams/index.js'
