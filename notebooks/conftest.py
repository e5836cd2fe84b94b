"""Keep nbmake from waiting forever for a reply that has arrived.

ZeroMQ tells once that a message has come. pyzmq's asyncio sockets therefore look again
after each send, but jupyter_client sends past them (`Session.send` takes a shadow of
the socket). A reply that comes in while the client is busy, just before such a send, is
then seen by nobody, and kernel and client both wait. Chapters with live widgets send
while they wait for a reply. So look again after each send.
"""

import zmq
from jupyter_client.channels import AsyncZMQSocketChannel, ZMQSocketChannel


def send(channel, msg):
    """Send, and wake up whoever waits for a message that is there already."""
    ZMQSocketChannel.send(channel, msg)
    channel.socket.get(zmq.EVENTS)  # schedules the socket's handlers


AsyncZMQSocketChannel.send = send
