from time import sleep  # the name is taken here, once: whatever it means now, it means for ever


class Provider:
    def charge(self, order, *, wait=sleep):
        wait(0.1)  # stands for the provider's answer
        return f"paid {order}"
