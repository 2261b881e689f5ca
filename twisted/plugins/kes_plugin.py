"""Makes `twistd kes` known to Twisted. The module that serves it is named as text, so listing plugins loads no more."""

from twisted.application.service import ServiceMaker

kes = ServiceMaker("kes", "kes.tap", "A key-encryption server.", "kes")
